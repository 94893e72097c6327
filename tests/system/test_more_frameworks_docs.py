"""docs/how-to/more-frameworks.md: the examples of Keras and JAX run, and equal Torch's weighted loss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

import statsvc
from statsvc.store import home as homes
from support.command_line import invoke
from support.heavy_imports import heavy_import
from support.publishing import label_maps, publish
from support.servers import serving
from support.small_segmentation import NAMES, batch

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "more-frameworks.md").read_text()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("docs") / "home"))
    publish(home, "street", label_maps(), num_classes=4, class_names=NAMES)
    with serving(home) as running:
        yield running


def run(heading: str, url: str, **given: Any) -> dict[str, Any]:
    """Run the first Python example of a section; return its names."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    space = {"statsvc": statsvc, **given}
    exec(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0].replace("http://stats:8000", url), space)
    return space


def channels_last(image: torch.Tensor) -> np.ndarray[Any, Any]:
    return image.permute(0, 2, 3, 1).numpy()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised by Keras
def test_keras_trains_with_torchs_weighted_loss(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = heavy_import("keras")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, padding="same")])
    images, labels = batch(0, images=4)
    before = torch.from_numpy(np.array(model.predict_on_batch(channels_last(images)))).permute(0, 3, 1, 2)
    space = run(
        "Keras 3", url, np=np, keras=keras, model=model, images=channels_last(images), labels=labels.numpy()
    )
    expected = cross_entropy(before, labels, torch.from_numpy(space["weights"]), ignore_index=255)
    history = model.history.history["loss"]
    assert history == [pytest.approx(expected.item(), rel=1e-4)]
    after = torch.from_numpy(np.array(model.predict_on_batch(channels_last(images)))).permute(0, 3, 1, 2)
    assert cross_entropy(after, labels, torch.from_numpy(space["weights"]), ignore_index=255) < expected


def test_jax_has_the_value_and_gradient_of_torchs_weighted_loss(url: str) -> None:
    jax = heavy_import("jax")
    label = batch(0)[1]
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    space = run(
        "JAX",
        url,
        jax=jax,
        jnp=jax.numpy,
        logits=channels_last(logits.detach()),
        label=label.numpy(),
    )
    weights = torch.from_numpy(np.array(space["weights"]))
    loss = cross_entropy(logits, label, weights, ignore_index=255)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(space["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert logits.grad is not None
    np.testing.assert_allclose(np.array(space["gradient"]), channels_last(logits.grad), atol=1e-7)
    ignored = space["weighted_cross_entropy"](np.zeros((1, 2, 2, 4)), np.full((1, 2, 2), 255))
    assert float(ignored) == 0


def test_the_list_in_the_paddleseg_file_is_the_export(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(), num_classes=4, class_names=NAMES)
    (command,) = re.findall(r"\$ statsvc (export .*)", PAGE)
    file = tmp_path / "class_weight.yaml"
    words = command.replace("class_weight.yaml", str(file)).split()
    invoke(*words, "--home", home.folder)
    assert len(yaml.safe_load(file.read_text())["class_weight"]) == 4
