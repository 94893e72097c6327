"""The examples run against a real server, and resume from their files."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

import statsvc
from statsvc.dataset.splits import detect
from statsvc.local.demo import CLASS_NAMES, make_demo
from statsvc.store import home as homes
from support.publishing import publish
from support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


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


def train(url: str, labels: Path, *options: str | Path) -> list[str]:
    """Run the example to its end, and return the lines that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        command(url, labels, *options), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def table(lines: list[str]) -> list[str]:
    return [line for line in lines if "IoU" in line]


def shown_weights(lines: list[str]) -> list[str]:
    return [line.split(" weight ")[1].split()[0] for line in table(lines)[:-1]]


PLAIN = ("--method", "uniform", "--ce", "1", "--dice", "0", "--shuffle")


@pytest.fixture(scope="module")
def uninterrupted(server: str, labels: Path) -> dict[tuple[str, ...], list[str]]:
    """The output of uninterrupted runs: with the default options, and with plain cross-entropy."""
    return {options: train(server, labels, *options) for options in ((), PLAIN)}


def test_the_weights_are_those_of_the_stream_that_the_sampler_draws(
    uninterrupted: dict[tuple[str, ...], list[str]], labels: Path
) -> None:
    counted = statsvc.scan(labels, class_names=CLASS_NAMES, num_classes=12)
    expected = counted.weights(split="train", ignore_index=255, sampler="rare_class", min_pixels=1)
    assert shown_weights(uninterrupted[()]) == [f"{weight:.4f}" for weight in expected.to_list()]
    assert set(shown_weights(uninterrupted[PLAIN])) == {"1.0000"}


@pytest.mark.parametrize("options", [(), PLAIN])
def test_the_loss_falls(uninterrupted: dict[tuple[str, ...], list[str]], options: tuple[str, ...]) -> None:
    losses = [float(line.split()[-1]) for line in uninterrupted[options] if line.startswith("epoch")]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("options", [(), PLAIN])
def test_a_killed_run_resumes_from_its_checkpoint_with_the_same_result(
    uninterrupted: dict[tuple[str, ...], list[str]],
    server: str,
    labels: Path,
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    file = tmp_path / "last.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command(server, labels, *options, "--checkpoint", file),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any(line.startswith("epoch 1") for line in process.stdout)
        process.kill()
    state = torch.load(file, weights_only=True)
    saved = statsvc.ClassWeights.from_dict(state["class_weights"])
    assert (saved.dataset, saved.version) == ("street", 1)
    assert saved.spec["split"] == "train"

    resumed = train(server, labels, *options, "--checkpoint", file)
    assert f"resumed after epoch {state['epoch']}" in resumed
    assert table(resumed) == table(uninterrupted[options])


def test_a_checkpoint_with_a_different_shuffle_setting_is_rejected(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = importlib.import_module("train")
    Streets, begin = example.Streets, example.begin

    from statsvc.samplers import RareClassSampler

    data, counted = Streets(labels / "train"), statsvc.scan(labels, num_classes=12)
    weights = counted.weights(split="train")
    sampler = RareClassSampler(data.files, counted, split="train", min_pixels=1)
    settings = {"ce": 0.6, "dice": 0.4, "epochs": 3, "lr": 0.1}
    shuffled = begin(data, weights, sampler=None, **settings)
    shuffled.save(tmp_path / "last.pt")
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    with pytest.raises(SystemExit, match="--shuffle"):
        begin(data, weights, sampler=sampler, **settings).resume(state)
    begin(data, weights, sampler=None, **settings).resume(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "stret"], "there is no dataset 'stret' (did you mean 'street'?)"),
        (["--step", "3"], "--step 3 reduces 64x48 to 22x16, but the network needs multiples of 4"),
        (["--lr", "1e30", "--shuffle"], "Choose a smaller --lr"),
    ],
)
def test_an_invalid_option_gives_a_message_that_says_what_to_do(
    server: str, labels: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    main = importlib.import_module("train").main

    settings = [server, str(labels), "--step", "1", "--threads", "1", "--epochs", "1"]
    with pytest.raises((SystemExit, statsvc.NotFound)) as raised:
        main([*settings, *options])
    assert message in str(raised.value)


def test_a_wrong_folder_and_a_different_number_of_epochs_give_a_message(
    server: str, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    main = importlib.import_module("train").main

    with pytest.raises(
        SystemExit, match=r"contains no \*.png label maps\. Pass the folder that contains train/ and val/"
    ):
        main([server, str(labels / "train")])
    settings = [server, str(labels), "--step", "1", "--threads", "1", "--checkpoint", str(tmp_path / "a.pt")]
    main([*settings, "--epochs", "1"])
    with pytest.raises(
        SystemExit, match=r"schedule has \d+ steps, but this run has \d+\. Resume with the same"
    ):
        main([*settings, "--epochs", "2"])


SNIPPET = """
class_weights = calculate_class_weights(dataset=train_dst, num_classes=19, device=device, method='sqrt_inv_freq', ignore_index=255)
criterion = CombinedLoss(ce_weight=0.6, dice_weight=0.4, smooth=1.0, ignore_index=255, class_weights=class_weights, square_denominator=False)
"""  # noqa: E501


def test_calculate_class_weights_and_the_combined_loss_run_in_a_training_script(
    labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    Streets = importlib.import_module("train").Streets

    train_dst = Streets(labels / "train")
    namespace = {
        "calculate_class_weights": statsvc.calculate_class_weights,
        "CombinedLoss": statsvc.losses.CombinedLoss,
        "train_dst": train_dst,
        "device": torch.device("cpu"),
    }
    exec(SNIPPET, namespace)
    counted = statsvc.scan(labels / "train", num_classes=19).weights("sqrt_inv_freq", ignore_index=255)
    assert torch.equal(namespace["class_weights"], counted.tensor())
    label = torch.stack([train_dst[index][1] for index in range(4)])
    logits = torch.zeros(4, 19, *label.shape[1:], requires_grad=True)
    loss = namespace["criterion"](logits, label)
    loss.backward()
    assert logits.grad is not None
    assert namespace["criterion"].last["ce"].item() == pytest.approx(np.log(19), rel=1e-5)
    assert logits.grad[label[:, None].expand_as(logits) == 255].count_nonzero() == 0
    assert logits.grad.isfinite().all()


@pytest.fixture
def run_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Run an example to its end on one thread, and return the lines that it prints."""
    monkeypatch.syspath_prepend(ROOT / "examples")

    def run(name: str, *options: str | Path) -> list[str]:
        importlib.import_module(name).main([*map(str, options), "--threads", "1"])
        return capsys.readouterr().out.splitlines()

    return run


def test_a_sweep_continues_and_reports_mean_and_spread_of_each_strength(
    server: str, labels: Path, tmp_path: Path, run_example: Callable[..., list[str]]
) -> None:
    file = tmp_path / "sweep.json"
    settings = [server, labels, "--epochs", "1", "--step", "1", "--results", file]
    first = run_example("sweep", *settings, "--strengths", "0,1", "--seeds", "0")
    assert [line.split(":")[0] for line in first[:2]] == ["seed 0, strength 0", "seed 0, strength 1"]
    kept = json.loads(file.read_text())["runs"]

    both = run_example("sweep", *settings, "--strengths", "0,1", "--seeds", "0,1")
    assert [line.split(":")[0] for line in both[:2]] == ["seed 1, strength 0", "seed 1, strength 1"]
    runs = json.loads(file.read_text())["runs"]
    assert [run for run in runs if run["seed"] == 0] == kept
    assert len({tuple(run["iou"]) for run in runs}) == 4
    # NumPy computes the table from the stored runs.
    iou = np.array([run["iou"] for run in runs], float).reshape(2, 2, -1)
    means = 100 * np.nanmean(iou, axis=2)
    for line, values in zip(both[3:5], means, strict=True):
        assert f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" in line
    best = int(means.mean(1).argmax())
    assert both[3 + best].endswith("best")
    assert both[5] == f"Best strength: {best}, of 2 seeds."


def test_a_sweep_does_not_mix_runs_of_different_settings(
    server: str, labels: Path, tmp_path: Path, run_example: Callable[..., list[str]]
) -> None:
    file = tmp_path / "sweep.json"
    settings = {"dataset": "street", "version": 1, "method": "enet", "ce": 0.6, "dice": 0.4, "epochs": 4}
    file.write_text(json.dumps({"settings": {**settings, "step": 1, "lr": 0.1}, "runs": []}))
    with pytest.raises(SystemExit, match=r"sweep\.json has runs with a different method, epochs\."):
        run_example("sweep", server, labels, "--step", "1", "--epochs", "1", "--results", file)


def test_patches_are_trained_on_and_show_rare_classes_more_often(
    labels: Path, run_example: Callable[..., list[str]]
) -> None:
    lines = run_example("patches", labels, "--crop", "32x32", "--draws", "64", "--epochs", "3")
    losses = [float(line.split()[-1]) for line in lines if line.startswith("epoch")]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]
    assert lines[-1].startswith("mean IoU")

    example = importlib.import_module("patches")
    from statsvc.samplers import PatchSampler

    crops = example.Crops(example.Streets(labels / "train"))
    table = statsvc.scan(labels, grid="8x8", ignore_index=255)
    drawn = list(PatchSampler(crops.images.files, table, crop=(32, 32), split="train", num_samples=200))
    seen = np.bincount(torch.cat([crops[item][1].flatten() for item in drawn]).numpy(), minlength=256)[:12]
    stored = np.concatenate([np.asarray(Image.open(file)).ravel() for file in crops.images.files])
    counted = np.bincount(stored, minlength=256)[:12]
    image, label = crops[drawn[0]]
    assert image.shape == (3, 32, 32)
    assert label.shape == (32, 32)
    rare = counted < 0.01 * counted.sum()
    assert rare.sum() >= 4
    assert seen[rare].sum() / seen.sum() > 1.5 * counted[rare].sum() / counted.sum()


def test_a_crop_that_the_network_cannot_use_gives_a_message(
    labels: Path, run_example: Callable[..., list[str]]
) -> None:
    with pytest.raises(SystemExit, match="--crop 30x32 must be height x width, both multiples of 4"):
        run_example("patches", labels, "--crop", "30x32")
