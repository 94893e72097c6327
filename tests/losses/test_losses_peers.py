"""The losses compared with MONAI and segmentation-models-pytorch: equal and different definitions.

segmentation-models-pytorch defines Dice as a Tversky score, (Σpy + s) / (½(Σp + Σy) + s), so its smooth
is half of ours.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from statsvc.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, TverskyLoss
from support.heavy_imports import heavy_import
from support.loss_inputs import logits_of, target_of, value_and_gradient

ROOT = Path(__file__).parents[2]
WEIGHTS = [0.5, 2.0, 1.0, 0.25]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module benchmarks/losses.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("losses")


def assert_same(ours: Any, theirs: Any, logits: torch.Tensor, target: torch.Tensor) -> None:
    for actual, expected in zip(
        value_and_gradient(ours, logits, target), value_and_gradient(theirs, logits, target), strict=True
    ):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("shape", [(3, 4, 9, 7), (2, 4, 3, 5, 4)])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_without_weights_the_combined_loss_equals_that_of_monai(
    shape: tuple[int, ...], squared: bool, batch: bool, background: bool
) -> None:
    logits = logits_of(shape)
    target = target_of(logits, ignored=0)
    target[target == 2] = 1  # MONAI penalizes predictions of an absent class
    monai = heavy_import("monai.losses").DiceCELoss(
        include_background=background,
        to_onehot_y=True,
        softmax=True,
        squared_pred=squared,
        smooth_nr=1.0,
        smooth_dr=1.0,
        batch=batch,
        lambda_dice=0.4,
        lambda_ce=0.6,
    )
    ours = CombinedLoss(
        square_denominator=squared, batch_dice=batch, include_background=background, absent="penalise"
    )
    assert_same(ours, lambda x, t: monai(x, t[:, None]), logits, target)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (1.0, 0.0)])
def test_tversky_equals_that_of_monai_and_segmentation_models_pytorch(
    alpha: float, beta: float, benchmark: Any
) -> None:
    logits = logits_of((3, 4, 9, 7))
    target = target_of(logits, ignored=0)
    monai = heavy_import("monai.losses").TverskyLoss(
        to_onehot_y=True, softmax=True, alpha=alpha, beta=beta, smooth_nr=0.5, smooth_dr=0.5, batch=True
    )
    smp = benchmark.smp_losses().TverskyLoss("multiclass", smooth=0.5, alpha=alpha, beta=beta)
    ours = TverskyLoss(alpha=alpha, beta=beta, batch_dice=True)
    assert_same(ours, lambda x, t: monai(x, t[:, None]), logits, target)
    assert_same(ours, smp, logits, target)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_equals_that_of_monai_but_for_its_mean_over_classes(gamma: float) -> None:
    logits = logits_of((3, 4, 9, 7), dtype=torch.float32)
    target = target_of(logits, ignored=0)
    options = {"to_onehot_y": True, "use_softmax": True, "gamma": gamma, "alpha": [0.5, 2.0, 1.0, 0.25]}
    monai = heavy_import("monai.losses").FocalLoss(**options)
    ours = CrossEntropyLoss(gamma=gamma, alpha=[0.5, 2.0, 1.0, 0.25])
    assert_same(ours, lambda x, t: 4 * monai(x, t[:, None]), logits, target)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_equals_that_of_segmentation_models_pytorch(smoothing: float, benchmark: Any) -> None:
    logits = logits_of((3, 4, 9, 7))
    target = target_of(logits, ignored=0)
    theirs = benchmark.smp_losses().SoftCrossEntropyLoss(smooth_factor=smoothing)
    assert_same(CrossEntropyLoss(label_smoothing=smoothing), theirs, logits, target)


@pytest.mark.parametrize("shape", [(3, 1, 9, 7), (2, 1, 3, 5, 4)])
def test_losses_of_one_channel_equal_those_of_monai(shape: tuple[int, ...]) -> None:
    logits = logits_of(shape, dtype=torch.float32)
    target = target_of(logits, ignored=0)
    losses = heavy_import("monai.losses")
    smooth = {"smooth_nr": 1.0, "smooth_dr": 1.0}
    half = {"smooth_nr": 0.5, "smooth_dr": 0.5}
    penalise: dict[str, Any] = {"absent": "penalise"}
    for ours, monai in (
        (
            CombinedLoss(**penalise, square_denominator=True),
            losses.DiceCELoss(sigmoid=True, squared_pred=True, lambda_dice=0.4, lambda_ce=0.6, **smooth),
        ),
        (DiceLoss(**penalise), losses.DiceLoss(sigmoid=True, **smooth)),
        (
            TverskyLoss(**penalise, batch_dice=True),
            losses.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, batch=True, **half),
        ),
        (CrossEntropyLoss(gamma=1.5, alpha=[0.75, 0.25]), losses.FocalLoss(gamma=1.5, alpha=0.25)),
    ):
        assert_same(ours, lambda x, t, m=monai: m(x, t[:, None].to(x.dtype)), logits, target)


@pytest.mark.parametrize("ignored", [0, 0.3])
def test_losses_of_one_channel_equal_those_of_segmentation_models_pytorch(
    ignored: float, benchmark: Any
) -> None:
    logits = logits_of((3, 1, 9, 7))
    target = target_of(logits, ignored=ignored)
    losses = benchmark.smp_losses()
    for ours, theirs in (
        (DiceLoss(batch_dice=True), losses.DiceLoss("binary", smooth=0.5, ignore_index=255)),
        (
            TverskyLoss(batch_dice=True, gamma=1.5),
            losses.TverskyLoss("binary", smooth=0.5, alpha=0.3, beta=0.7, gamma=1.5, ignore_index=255),
        ),
        (
            CrossEntropyLoss(gamma=2, alpha=[0.75, 0.25]),
            losses.FocalLoss("binary", alpha=0.25, gamma=2.0, ignore_index=255),
        ),
    ):
        assert_same(ours, theirs, logits, target)


def test_monais_weighted_dice_divides_by_the_number_of_classes_and_ours_by_the_sum_of_weights() -> None:
    logits = logits_of((2, 4, 8, 8))
    target = target_of(logits, ignored=0)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    monai = heavy_import("monai.losses").DiceLoss(
        to_onehot_y=True, softmax=True, smooth_nr=1.0, smooth_dr=1.0, weight=weight
    )
    ours = DiceLoss(class_weights=WEIGHTS, absent="penalise")
    scale = weight.sum() / len(weight)
    assert_same(lambda x, t: ours(x, t) * scale, lambda x, t: monai(x, t[:, None]), logits, target)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("ignored", [0, 0.3])
@pytest.mark.parametrize("shape", [(3, 4, 9, 7), (2, 4, 3, 5, 4)])
def test_batch_dice_equals_that_of_segmentation_models_pytorch(
    weights: list[float] | None, ignored: float, shape: tuple[int, ...], benchmark: Any
) -> None:
    logits = logits_of(shape)
    target = target_of(logits, ignored=ignored)
    theirs = benchmark.smp_losses().DiceLoss(
        "multiclass", smooth=0.5, ignore_index=255, class_weights=weights
    )
    for absent in ("skip", "penalise"):  # every class is present
        ours = DiceLoss(class_weights=weights, batch_dice=True, absent=absent)
        assert_same(ours, theirs, logits, target)


def test_segmentation_models_pytorch_divides_by_the_number_of_all_classes(benchmark: Any) -> None:
    logits = logits_of((2, 4, 9, 7))
    target = target_of(logits)
    target[target == 3] = 0
    theirs = benchmark.smp_losses().DiceLoss("multiclass", smooth=0.5, ignore_index=255)
    ours = DiceLoss(batch_dice=True)
    assert_same(lambda x, t: ours(x, t) * 3 / 4, theirs, logits, target)


def test_the_benchmark_compares_equal_losses_and_names_a_missing_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], benchmark: Any
) -> None:
    monkeypatch.setattr(benchmark, "smp_losses", lambda: importlib.import_module("no_such_package"))
    # Measured in a subprocess, and tested elsewhere.
    monkeypatch.setattr(benchmark, "peak_of", lambda *_: 1 << 20)
    arguments = [
        "losses.py",
        "--shape",
        "2,3,40,24",
        "--repeats",
        "1",
        "--json",
        str(tmp_path / "results.json"),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    rows = json.loads((tmp_path / "results.json").read_text())["losses"]
    assert len(rows) == sum(len(losses) for _, losses in benchmark.GROUPS.values())
    for row in rows:
        if row["loss"].startswith("smp"):
            assert "no_such_package" in row["missing"]
        elif "only" not in row["loss"]:
            assert row["value_difference"] < 1e-5
            assert row["gradient_difference"] < 1e-4 * row["gradient_largest"]
    output = capsys.readouterr().out
    assert "smp DiceLoss + cross-entropy   not compared: No module named 'no_such_package'" in output
    assert "MONAI DiceCELoss" in output
    assert "smp FocalLoss" in output
