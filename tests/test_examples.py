"""The training example runs against a real server, and goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from publishing import publish
from servers import serving

import statsvc
from statsvc.demo import CLASS_NAMES, make_demo
from statsvc.splits import detect
from statsvc.store import home as homes

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("example") / "labels", images=40, size=(64, 48))


@pytest.fixture(scope="module")
def server(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    maps = {
        file.relative_to(labels).as_posix(): np.asarray(Image.open(file)) for file in labels.rglob("*.png")
    }
    home = homes.resolve(str(tmp_path_factory.mktemp("home")))
    publish(home, "street", maps, num_classes=12, class_names=CLASS_NAMES, splits=detect(maps))
    with serving(home) as url:
        yield url


def command(url: str, labels: Path, *options: str | Path) -> list[str]:
    settings = ["--step", "1", "--threads", "1", "--epochs", "3", *map(str, options)]
    return [sys.executable, "examples/train.py", url, str(labels), *settings]


def trained(url: str, labels: Path, *options: str | Path) -> list[str]:
    """Run the example to its end; return the lines that it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command(url, labels, *options), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def table(lines: list[str]) -> list[str]:
    return [line for line in lines if "IoU" in line]


def test_the_example_trains_with_the_servers_weights_of_what_its_sampler_draws(
    server: str, labels: Path, tmp_path: Path
) -> None:
    lines = trained(server, labels, "--checkpoint", tmp_path / "last.pt")
    counted = statsvc.scan(labels, class_names=CLASS_NAMES, num_classes=12)
    expected = counted.weights(split="train", ignore_index=255, sampler="rare_class", min_pixels=1)
    shown = [line.split(" weight ")[1].split()[0] for line in table(lines)[:-1]]
    assert shown == [f"{weight:.4f}" for weight in expected.to_list()]

    checkpoint = torch.load(tmp_path / "last.pt", weights_only=True)
    kept = statsvc.ClassWeights.from_dict(checkpoint["class_weights"])
    assert (kept.dataset, kept.version, kept.spec["sampler"]) == ("street", 1, "rare_class")
    np.testing.assert_allclose(kept.to_list(), expected.to_list(), rtol=1e-12)

    losses = [float(line.split()[-1]) for line in lines if line.startswith("epoch")]
    assert losses[0] > losses[1] > losses[2]


def test_plain_cross_entropy_is_the_same_script_without_weights_dice_and_sampler(
    server: str, labels: Path
) -> None:
    lines = trained(server, labels, "--method", "uniform", "--dice", "0", "--ce", "1", "--shuffle")
    assert {line.split(" weight ")[1].split()[0] for line in table(lines)[:-1]} == {"1.0000"}


@pytest.mark.parametrize("order", [[], ["--shuffle"]])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    server: str, labels: Path, tmp_path: Path, order: list[str]
) -> None:
    whole = trained(server, labels, *order)
    file = tmp_path / "last.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command(server, labels, *order, "--checkpoint", file),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while not process.stdout.readline().startswith("epoch 1"):
            pass
        process.send_signal(signal.SIGKILL)
    resumed = trained(server, labels, *order, "--checkpoint", file)
    assert any(line.startswith("resumed after epoch") for line in resumed)
    assert table(resumed) == table(whole)
