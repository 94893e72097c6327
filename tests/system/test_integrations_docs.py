"""docs/how-to/integrations.md: its examples run, against a real server and the real packages."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

import statsvc
from statsvc.store import home as homes
from support.publishing import label_maps, publish
from support.servers import serving
from support.small_segmentation import NAMES, batch

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "integrations.md").read_text()
URL = "http://stats:8000"


def blocks(heading: str, language: str = "python") -> list[str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("docs") / "home"))
    publish(home, "street", label_maps(), num_classes=4, class_names=NAMES)
    with serving(home) as running:
        yield running


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(heading: str, url: str, **given: Any) -> dict[str, Any]:
    (block,) = blocks(heading)
    space = {"statsvc": statsvc, "torch": torch, "os": os, **given}
    exec(block.replace(URL, url), space)
    return space


def test_the_monitor_prints_what_is_wrong(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    epochs = iter([(0.9, [0.5, 0.5, 0.0, 0.2])] * 3 + [(0.8, [0.5, 0.5, 0.0, 0.2])] * 2)
    with SummaryWriter(str(tmp_path)) as writer:
        run(
            "Monitor each class",
            url,
            iou_without_weights=[0.9, 0.5, 0.0, 0.0],
            writer=writer,
            train_one_epoch=lambda: next(epochs),
        )
    gain, first, second = capsys.readouterr().out.splitlines()
    assert gain.startswith("class_up a class gained more than 2 points against the baseline: pole")
    assert first.startswith("class_at_zero IoU 0 after 3 epochs: person (weight ")
    assert second.startswith("frequent_class_down a frequent class lost more than 2 points")
    for code in (
        "loss_not_finite",
        "loss_rising",
        "frequent_class_down",
        "rare_class_down",
        "class_up",
        "class_at_zero",
    ):
        assert f"| `{code}` |" in PAGE


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_and_goes_on_with_its_weights(url: str) -> None:
    from support.lightning_runs import Net, loader, pl

    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    space = run("Lightning", url, pl=pl, Net=Net, loader=loader, quiet=quiet)
    assert space["weights"].to_dict() == statsvc.Client(url).weights("street").to_dict()


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_trains_and_resumes(url: str) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    from support.transformers_runs import DATA, Trainer, TrainingArguments, model

    for steps in (1, 2):
        arguments = TrainingArguments(
            output_dir="run", max_steps=steps, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
        )
        space = run(
            "Transformers",
            url,
            get_last_checkpoint=get_last_checkpoint,
            Trainer=Trainer,
            model=model(),
            arguments=arguments,
            data=DATA,
        )
    assert space["last"] == str(Path("run") / "checkpoint-1")
    assert space["trainer"].state.global_step == 2


def test_monai_accepts_both_losses(url: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.losses import DiceCELoss
    image, label = batch(0)
    space = run(
        "MONAI",
        url,
        DiceCELoss=DiceCELoss,
        logits=torch.cat([image, image[:, :1]], 1),
        label=label[:, None].float(),
    )
    assert space["loss"] > 0


def test_hydra_instantiates_the_loss_with_the_weights_of_the_server(url: str) -> None:
    (text,) = blocks("Hydra", "yaml")
    Path("config.yaml").write_text(text.replace(URL, url))
    criterion = run("Hydra", url, hydra=hydra, OmegaConf=OmegaConf)["criterion"]
    expected = statsvc.Client(url).weights(
        "street", method="sqrt_inv_freq", ignore_index=[255], multiply={"person": 2}
    )
    assert type(criterion) is statsvc.losses.CombinedLoss
    assert criterion.weight is not None
    assert torch.equal(criterion.weight, expected.tensor())
    assert criterion.provenance is not None
    assert criterion.provenance["version"] == 1
    assert criterion.provenance["spec"] == expected.spec
    tensor = hydra.utils.instantiate(
        {"_target_": "statsvc.class_weights", "url": url, "dataset": "street", "clip": [0.5, 2]}
    )
    assert torch.equal(tensor, statsvc.class_weights(url, dataset="street", clip=(0.5, 2)))


def test_the_fragment_for_mmsegmentation_is_a_python_file(url: str) -> None:
    space = run("MMSegmentation", url)
    base, fragment = Path("class_weights.py").read_text().split("\n", 1)
    assert base == "_base_ = './base.py'"
    head = {"num_classes": 4, "loss_decode": {"type": "CrossEntropyLoss"}}
    config: dict[str, Any] = {"_base_": SimpleNamespace(model={"decode_head": head})}  # as MMEngine does
    exec(fragment, config)
    loss = config["model"]["decode_head"]["loss_decode"]
    assert loss["class_weights"] == space["weights"].to_dict()
    assert config["custom_imports"]["imports"] == ["statsvc.integrations.mmseg_loss"]
