"""The warnings of a monitor, and what it logs to the real trackers."""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import statsvc
from statsvc.errors import InvalidParameter
from statsvc.integrations import Monitor, monitor
from statsvc.sampling.weights import weights_response
from statsvc.weighting.parameters import WeightSpec
from support.small_tables import table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ("road", "sky", "person", "pole", "door;double (grün)")


@pytest.fixture(scope="module")
def weights() -> statsvc.ClassWeights:
    """Weights of road (60 %), sky (30 %), person (8 %), pole (2 %), and a class without pixels."""
    table = table_of([{0: 60, 1: 30, 2: 8, 3: 2}], num_classes=5, class_names=NAMES)
    return statsvc.ClassWeights(weights_response(table, WeightSpec.from_params({"method": "sqrt_inv_freq"})))


def codes(warnings: Sequence[dict[str, str]]) -> list[str]:
    return [warning["code"] for warning in warnings]


GOOD = [0.9, 0.8, 0.5, 0.2, math.nan]


# Warnings


def test_a_healthy_run_has_no_warnings(weights: statsvc.ClassWeights) -> None:
    watch = Monitor(weights, baseline=GOOD, loggers=())
    assert [watch(GOOD, loss=loss) for loss in (1.0, 0.8, 0.7, 0.71, 0.69, 0.7)] == [[]] * 6


def test_the_warning_for_a_frequent_class_names_both_iou_values(
    weights: statsvc.ClassWeights,
) -> None:
    (warning,) = monitor([0.879, 0.78, 0.49, 0.2, math.nan], weights, baseline=GOOD, loggers=())
    assert warning["code"] == "frequent_class_down"
    assert "road 90.0% → 87.9%" in warning["message"]
    # sky lost exactly 2 points
    assert not any(name in warning["message"] for name in ("sky", "person", "pole"))


def test_rare_classes_that_fall_and_classes_that_rise_are_reported(
    weights: statsvc.ClassWeights, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[tuple[Any, str]] = []

    class CustomTracker:
        def begin(self, facts: Any, record: Any) -> None: ...

        def log(self, metrics: Any, warnings: str, epoch: int) -> None:
            logged.append((metrics, warnings))

    caplog.set_level(logging.INFO, "statsvc.monitor")
    watch = Monitor(weights, baseline=GOOD, loggers=CustomTracker())
    gains = [codes(watch([0.92, 0.85, 0.4, 0.3, 0.7])) for _ in range(3)]
    assert gains == [["class_up"], [], []]
    (warning,) = watch([0.92, 0.85, 0.4, 0.3, 0.7])  # person no longer improves
    assert warning["code"] == "rare_class_down"
    assert (
        "a rare class lost more than 2 points against the baseline: person 50.0% → 40.0%"
        in (warning["message"])
    )
    up, down = caplog.records
    assert up.levelname == "INFO"
    assert up.getMessage().endswith("2 classes gained more than 2 points against the baseline: "
                                    "sky 80.0% → 85.0%, pole 20.0% → 30.0%")  # fmt: skip
    assert down.levelname == "WARNING"
    metrics, text = logged[-1]
    assert metrics["monitor/warnings"] == 1
    assert text == warning["message"]
    assert {name: round(value, 3) for name, value in metrics.items() if "change" in name} == {
        "iou_change/road": 0.02,
        "iou_change/sky": 0.05,
        "iou_change/person": -0.1,
        "iou_change/pole": 0.1,
    }


def test_weights_that_equal_gentle_ones_are_not_advised_to_become_gentle() -> None:
    table = table_of([{0: 60, 1: 30, 2: 8, 3: 2}], num_classes=4)
    for params in ({"method": "inverse_freq", "strength": 0.5}, {"method": "power", "alpha": 0.5}):
        weights = statsvc.ClassWeights(weights_response(table, WeightSpec.from_params(params)))
        (warning,) = monitor([0.5, 0.8, 0.5, 0.2], weights, baseline=GOOD[:4], loggers=())
        assert f"{params['method']} is gentle already" in warning["message"]


def test_lost_iou_is_not_detected_without_a_baseline(weights: statsvc.ClassWeights) -> None:
    assert monitor([0.1, 0.1, 0.1, 0.1, 0.1], weights, loggers=()) == []


def test_classes_with_at_most_the_mean_of_plain_weights_count_as_frequent() -> None:
    frequent, rare = monitor([0.5, 0.5], [0.5, 1.5], baseline=[0.6, 0.6], loggers=())
    assert "a frequent class lost" in frequent["message"]
    assert "0 60.0% → 50.0%" in frequent["message"]
    assert "a rare class lost" in rare["message"]
    assert "1 60.0% → 50.0%" in rare["message"]
    (warning,) = monitor([0.5, 0.5], torch.ones(2), baseline=[0.6, 0.6], loggers=())
    assert "2 frequent classes" in warning["message"]


def test_the_warning_for_a_class_at_zero_names_its_weight_and_best_iou(weights: statsvc.ClassWeights) -> None:
    watch = Monitor(weights, loggers=())
    assert (
        watch([0.9, 0.8, 0.3, 0.0, math.nan]) == watch([0.9, 0.8, 0.0, 0.0, 0.0]) == []
    )  # too early to warn
    assert codes(watch([0.9, 0.8, 0.0, 0.0, 0.0])) == ["class_at_zero"]
    (warning,) = watch([0.9, 0.8, 0.0, 0.0, 0.0])  # person is affected now, too
    pole, person = (weights.to_list()[c] for c in (3, 2))
    assert "after 4 epochs" in warning["message"]
    assert f"person (weight {person:.4g}, had 30.0%), pole (weight {pole:.4g})" in warning["message"]
    assert "door" not in warning["message"]  # it has no pixels
    assert watch([0.9, 0.8, 0.1, 0.1, 0.0]) == []


def test_each_warning_is_returned_once_until_it_recurs(
    weights: statsvc.ClassWeights, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[tuple[float, str]] = []

    class CustomTracker:
        def begin(self, facts: Any, record: Any) -> None: ...

        def log(self, metrics: Any, warnings: str, epoch: int) -> None:
            logged.append((metrics["monitor/warnings"], warnings.partition(" after")[0]))

    watch = Monitor(weights, loggers=CustomTracker())
    pole_iou = [0.0] * 5 + [0.1] + [0.0] * 4
    returned = [codes(watch([0.9, 0.8, 0.5, iou, math.nan])) for iou in pole_iou]
    assert [epoch for epoch, new in enumerate(returned) if new == ["class_at_zero"]] == [2, 8]
    assert len([record for record in caplog.records if "IoU 0" in record.message]) == 2
    none, zero = (0, ""), (1, "IoU 0")
    assert logged == [none] * 2 + [zero] * 3 + [none] * 3 + [zero] * 2  # trackers get the current warnings


def test_a_class_is_not_compared_with_the_baseline_while_it_improves(
    weights: statsvc.ClassWeights,
) -> None:
    watch = Monitor(weights, baseline=GOOD, loggers=())
    road_iou = [0.3, 0.5, 0.6, 0.65, 0.7, 0.72, 0.725, 0.72, 0.725, 0.72]
    returned = [watch([iou, 0.8, 0.5, 0.2, math.nan]) for iou in road_iou]
    assert [epoch for epoch, new in enumerate(returned) if new] == [8]  # less than a point gained since 5
    short = Monitor(weights, baseline=GOOD, loggers=())
    assert short.end() == short([0.3, 0.8, 0.5, 0.0, math.nan]) == []
    assert codes(short.end()) == ["class_at_zero", "frequent_class_down"]
    assert short.end() == []


def test_the_advice_depends_on_the_method() -> None:
    table = table_of([{0: 60, 1: 30, 2: 8, 3: 2}], num_classes=4)
    for method, advice in (
        ("inverse_freq", "Gentler weights (sqrt_inv_freq, enet"),
        ("sqrt_inv_freq", "sqrt_inv_freq is gentle already"),
        ("uniform", "The weights are all equal, so they are not the cause"),
        ("logit_adjustment", "A smaller tau"),
    ):
        weights = statsvc.ClassWeights(weights_response(table, WeightSpec.from_params({"method": method})))
        (warning,) = monitor([0.5, 0.8, 0.5, 0.2], weights, baseline=GOOD[:4], loggers=())
        assert advice in warning["message"]


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan), np.float32("nan")])
def test_a_loss_that_is_not_finite_is_reported(weights: statsvc.ClassWeights, loss: Any) -> None:
    assert codes(monitor(GOOD, weights, loss=loss, loggers=())) == ["loss_not_finite"]


@pytest.mark.parametrize(
    ("losses", "rising"),
    [
        ([1.0, 0.5, 0.4, 0.4, 0.5, 0.6], True),
        ([1.0, 1.5, 2.0, 4.0], True),
        ([0.5, 0.4, 0.3, 0.9, 0.3, 0.9, 0.9], True),
        ([1.0, 0.5, 0.4, 0.9, 0.4, 0.41], False),  # one bad epoch
        ([1.0, 0.5, 0.4, math.nan, 0.4, 0.41], False),
        ([0.4, 0.43, 0.42, 0.43, 0.42], False),
        ([1.0, 5.0, 9.0], False),  # too few epochs for a trend
        ([], False),
    ],
)
def test_a_rising_loss_is_reported_and_a_single_bad_epoch_is_not(
    weights: statsvc.ClassWeights, losses: list[float], rising: bool
) -> None:
    expected = ["loss_rising"] if rising else []
    assert codes(monitor(GOOD, weights, loss=losses, loggers=())) == expected
    watch = Monitor(weights, loggers=())
    returned = [code for loss in losses for code in codes(watch(GOOD, loss=loss))]
    assert [code for code in returned if code == "loss_rising"] == expected


@pytest.mark.parametrize(
    ("iou", "message"),
    [
        ([90, 80, 50, 20, 0], "is 90 for class road; give 0 … 1 (divide percentages by 100)"),
        ([0.5, 0.5], "has shape [2]; give 5 numbers, one for each class"),
        (0.5, "has shape []"),
        ([0.5, -0.1, 0, 0, 0], "is -0.1 for class sky"),
        ("abc", "is not a vector of numbers"),
    ],
)
def test_an_invalid_iou_is_rejected(weights: statsvc.ClassWeights, iou: Any, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        monitor(iou, weights, loggers=())
    assert message in str(caught.value)
    with pytest.raises(InvalidParameter, match="baseline"):
        Monitor(weights, baseline=iou, loggers=())


def test_an_unsupported_logger_is_rejected(weights: statsvc.ClassWeights) -> None:
    with pytest.raises(
        InvalidParameter, match=r"loggers: dict is not supported; give a run of wandb.init\(\)"
    ):
        Monitor(weights, loggers=[{}])


def test_a_failing_tracker_does_not_stop_the_run(
    weights: statsvc.ClassWeights, caplog: pytest.LogCaptureFixture
) -> None:
    class FullDisk:
        def begin(self, facts: Any, record: Any) -> None: ...

        def log(self, metrics: Any, warnings: str, epoch: int) -> None:
            raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING, "statsvc.monitor"):
        assert codes(monitor([0.9, 0.8, 0.5, 0.0, 0.0], weights, loggers=[FullDisk()])) == ["class_at_zero"]
    assert [r.message for r in caplog.records][1] == (
        "FullDisk failed to log this epoch: [Errno 28] No space left on device. Training continues"
    )


# The real trackers


def four_epochs(watch: Monitor) -> list[dict[str, str]]:
    watch([0.9, 0.8, 0.0, 0.1, math.nan], loss=0.7)
    return [
        warning for loss in (0.6, 0.5, 0.4) for warning in watch([0.91, 0.8, 0.3, 0.0, math.nan], loss=loss)
    ]


def test_tensorboard_has_the_iou_of_each_epoch_the_warnings_and_the_weights(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        (warning,) = four_epochs(Monitor(weights, loggers=[writer]))
    events = event_accumulator.EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()

    def values(tag: str) -> list[tuple[int, float]]:
        return [(event.step, round(event.value, 5)) for event in events.Scalars(tag)]

    def text(tag: str) -> str:
        return str(events.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode())

    assert values("iou/road") == [(0, 0.9), (1, 0.91), (2, 0.91), (3, 0.91)]
    assert values("iou/pole") == [(0, 0.1), (1, 0.0), (2, 0.0), (3, 0.0)]
    assert values("monitor/loss") == [(0, 0.7), (1, 0.6), (2, 0.5), (3, 0.4)]
    assert values("monitor/mean_iou")[:2] == [(0, 0.45), (1, 0.5025)]
    assert values("monitor/warnings") == [(0, 0), (1, 0), (2, 0), (3, 1)]
    assert not any("door" in tag for tag in events.Tags()["scalars"])  # it has no IoU
    assert text("monitor/warnings_text") == warning["message"]
    assert "| class_weights/_method | sqrt_inv_freq |" in text("class_weights")
    assert json.loads(text("class_weights/record").strip("`\n")) == weights.to_dict()


def run_script(code: str, weights: statsvc.ClassWeights, folder: Path, *arguments: str) -> list[Any]:
    """Run a script in a folder with weights.json, and return the JSON arrays that it prints, one per line."""
    (folder / "weights.json").write_text(json.dumps(weights.to_dict()))
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "WANDB_SILENT": "true",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_the_active_mlflow_run_has_the_metrics_and_the_weights(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    # In a subprocess, because of MLflow's warnings and its global active run.
    code = """
import json, math, sys
import mlflow
from mlflow import MlflowClient
import statsvc
from statsvc.integrations import Monitor

weights = statsvc.ClassWeights.from_dict(json.load(open("weights.json")))
for uri in sys.argv[1:]:
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("e", artifact_location="artifacts")
    mlflow.set_experiment("e")
    with mlflow.start_run() as run:
        watch = Monitor(weights)
        watch([0.9, 0.8, 0.0, 0.1, 0.0], loss=0.7)
        for loss in (0.8, 0.7, 0.6):
            watch([0.91, 0.8, 0.3, 0.0, 0.0], loss=loss)
    client = MlflowClient()
    data = client.get_run(run.info.run_id).data
    steps = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "iou/road")]
    record = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/class_weights.json")
    print(json.dumps([data.params, data.metrics, data.tags, steps, record]))
"""
    stores = [f"sqlite:///{tmp_path}/runs.db", (tmp_path / "runs").as_uri()]
    lines = run_script(code, weights, tmp_path, *stores)
    assert len(lines) == len(stores)
    for params, metrics, tags, steps, record in lines:
        assert params["class_weights/_method"] == "sqrt_inv_freq"
        assert params["class_weights/_digest"] == weights.digest
        assert float(params["class_weights/pole"]) == weights.to_list()[3]
        assert metrics["iou/person"] == 0.3
        assert metrics["iou/door_double _grün_"] == 0
        assert metrics["monitor/warnings"] == 1
        assert tags["monitor.warnings"].startswith("IoU 0 after 4 epochs: pole (weight")
        assert steps == [[0, 0.9], [1, 0.91], [2, 0.91], [3, 0.91]]
        assert record == weights.to_dict()


def test_the_active_offline_wandb_run_has_the_metrics_and_the_weights(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    code = """
import json
import wandb
import statsvc
from statsvc.integrations import Monitor

weights = statsvc.ClassWeights.from_dict(json.load(open("weights.json")))
with wandb.init(mode="offline") as run:
    watch = Monitor(weights)
    for step in range(5):  # steps of the script
        run.log({"train/loss": 1.0}, step=step)
    watch([0.9, 0.8, 0.0, 0.1, 0.0], loss=0.7)
    run.log({"train/loss": 0.5}, step=9)
    for loss in (0.8, 0.7, 0.6):
        watch([0.91, 0.8, 0.3, 0.0, 0.0], loss=loss)
    print(json.dumps([run.settings.sync_file, dict(run.config)]))
"""
    ((file, config),) = run_script(code, weights, tmp_path)
    assert config["class_weights"] == weights.to_dict()
    assert config["class_weights/_digest"] == weights.digest
    history, summary = read_wandb(Path(file))
    rows = [row for row in history if "iou/road" in row]
    assert [(row["monitor/epoch"], row["iou/road"], row["iou/pole"]) for row in rows] == [
        (0, 0.9, 0.1),
        (1, 0.91, 0.0),
        (2, 0.91, 0.0),
        (3, 0.91, 0.0),
    ]
    assert [row["_step"] for row in history if "train/loss" in row] == [0, 1, 2, 3, 4, 9]
    assert summary["monitor/loss"] == 0.6
    assert summary["monitor/warnings_text"].startswith("IoU 0 after 4 epochs: pole (weight")


def read_wandb(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the history rows and the summary of a run's file.

    The file has a header of 7 bytes and then records in the log format of LevelDB.
    """
    from wandb.proto import wandb_internal_pb2

    def flat(items: Any) -> dict[str, Any]:
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    data, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768  # the end of a block is too short for a header
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a complete record, or its last fragment
            entry = wandb_internal_pb2.Record.FromString(record)
            record = b""
            if entry.WhichOneof("record_type") == "history":
                history.append(flat(entry.history.item))
            elif entry.WhichOneof("record_type") == "summary":
                summary |= flat(entry.summary.update)
    return history, summary
