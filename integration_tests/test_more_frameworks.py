"""docs/how-to/more-frameworks.md: the examples of packages that are too large for `make test`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import cross_entropy

import statsvc
from statsvc.store import home as homes
from support.publishing import label_maps, publish
from support.servers import serving
from support.small_segmentation import NAMES, batch

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks and their imports raise warnings

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "more-frameworks.md").read_text()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("docs") / "home"))
    publish(home, "street", label_maps(), num_classes=4, class_names=NAMES)
    with serving(home) as running:
        yield running


@pytest.fixture
def weights(url: str) -> statsvc.ClassWeights:
    return statsvc.Client(url).weights("street")


def run(heading: str, url: str, **given: Any) -> dict[str, Any]:
    """Run the first Python example of a section; return its names."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    space = {"statsvc": statsvc, **given}
    exec(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0].replace("http://stats:8000", url), space)
    return space


def test_a_model_of_segmentation_models_pytorch_trains_with_statsvcs_loss(url: str) -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    images, labels = batch(0, size=64)
    space = run("segmentation-models-pytorch", url, smp=smp, images=images, labels=labels)
    space["loss"].backward()
    assert all(p.grad.isfinite().all() for p in space["model"].parameters() if p.grad is not None)
    logits = space["model"].eval()(images).detach()
    dice = statsvc.losses.DiceLoss(class_weights=space["weights"])(logits, labels)
    ce = cross_entropy(logits, labels, space["weights"].tensor(), ignore_index=255)
    torch.testing.assert_close(space["criterion"](logits, labels), 0.6 * ce + 0.4 * dice)


def test_torchgeo_trains_with_torchs_weighted_loss(url: str, tmp_path: Path) -> None:
    import lightning.pytorch as pl
    from torchgeo.trainers import SemanticSegmentationTask

    torch.manual_seed(0)
    task = run("TorchGeo and TerraTorch", url, SemanticSegmentationTask=SemanticSegmentationTask)["task"]
    images, labels = batch(0, images=4, size=32)
    data = [{"image": image, "mask": label} for image, label in zip(images, labels, strict=True)]
    with torch.no_grad():
        expected = cross_entropy(
            task(images), labels, statsvc.Client(url).weights("street").tensor(), ignore_index=255
        )
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    trainer.fit(task, loader, loader)
    assert trainer.callback_metrics["train_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def semantic_dataset(folder: Path) -> Path:
    """Write eight images with masks in the layout of Ultralytics; return its YAML file."""
    for number in range(8):
        part = "train" if number < 6 else "val"
        image, label = batch(number, images=1, size=64)
        for kind, array in (
            ("images", (image[0].permute(1, 2, 0).numpy() * 40 + 128).clip(0, 255)),
            ("masks", label[0].numpy()),
        ):
            file = folder / kind / part / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(file)
    description = {
        "path": str(folder),
        "train": "images/train",
        "val": "images/val",
        "masks_dir": "masks",
        "names": dict(enumerate(NAMES)),
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(description))
    return folder / "data.yaml"


def test_ultralytics_trains_its_semantic_model_with_the_weights(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: statsvc.ClassWeights
) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    from ultralytics import YOLO

    trainer_class = run("Ultralytics", url)["WeightedTrainer"]
    seen: list[Any] = []

    class Recording(trainer_class):  # type: ignore[misc]
        def optimizer_step(self) -> None:
            seen.append(self.model.criterion.ce.weight.clone())
            super().optimizer_step()

    model = YOLO("yolo26n-sem.yaml")
    model.train(
        data=str(semantic_dataset(tmp_path / "data")), trainer=Recording, epochs=1, imgsz=64, batch=3,
        workers=0, device="cpu", plots=False, project=str(tmp_path / "runs"), verbose=False,
    )  # fmt: skip
    assert len(seen) >= 1
    for weight in seen:
        torch.testing.assert_close(weight.float(), weights.tensor())


def test_the_recipe_of_ultralytics_is_its_own_computation(weights: statsvc.ClassWeights, url: str) -> None:
    from types import SimpleNamespace

    from ultralytics.models.yolo.semantic import SemanticSegmentationTrainer

    pixels = np.array([row["pixels"] for row in weights.classes], np.float32)
    for power in (0.5, 1.0):
        trainer = SimpleNamespace(args=SimpleNamespace(cls_pw=power))
        theirs = SemanticSegmentationTrainer.compute_class_weights(trainer, pixels)
        ours = statsvc.Client(url).weights("street", recipe="ultralytics", strength=power)
        np.testing.assert_allclose(ours.numpy(), theirs / theirs.mean(), rtol=1e-5)


def test_lightly_train_has_no_class_weights() -> None:
    """The page says so. If this fails, the page can show the option."""
    import inspect

    import lightly_train

    assert "class_weights" not in inspect.signature(lightly_train.train_semantic_segmentation).parameters
    module = "lightly_train._task_models.linear_semantic_segmentation.train_model"
    source = inspect.getsource(__import__(module, fromlist=["train_model"]))
    assert "CrossEntropyLoss(ignore_index=data_args.ignore_index)" in source
