"""Experiment trackers: Weights & Biases, MLflow, TensorBoard.

Each tracker gets the weights once and the metrics of each epoch. This module does not import the trackers: a
script that has a run of one has already imported it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statsvc.weighting.class_weights import ClassWeights

    Scalars = Mapping[str, float | int | str | bool]


MLFLOW_BATCH = 1000
"""MLflow's limit of metrics in a request."""


class Tracker(Protocol):
    """The interface of a tracker for a monitor; any object with these two methods is one."""

    def begin(self, facts: Scalars, record: dict[str, Any]) -> None:
        """Log the weights at the beginning of a run.

        facts   flat scalars for a table of runs
        record  the complete record, `ClassWeights.to_dict()`
        """

    def log(self, metrics: Mapping[str, float], warnings: str, epoch: int) -> None:
        """Log the metrics of an epoch, and its warnings as one text, which may be empty."""


def facts_of(weights: ClassWeights) -> dict[str, float | int | str | bool]:
    """Return the weights, their provenance and their digest as flat scalars for a table of runs."""
    return weights.to_log() | {"class_weights/_digest": weights.digest}


class _WandB:
    """A run of Weights & Biases. The script controls its step, so metrics are plotted over
    `monitor/epoch`."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def begin(self, facts: Scalars, record: dict[str, Any]) -> None:
        self.run.config.update({**facts, "class_weights": record}, allow_val_change=True)
        self.run.define_metric("monitor/epoch")
        for name in ("iou/*", "iou_change/*", "monitor/mean_iou", "monitor/loss", "monitor/warnings"):
            self.run.define_metric(name, step_metric="monitor/epoch")

    def log(self, metrics: Mapping[str, float], warnings: str, epoch: int) -> None:
        # Without a step: W&B drops a step that is below the last one that the script has logged.
        self.run.log({**metrics, "monitor/epoch": epoch})
        self.run.summary["monitor/warnings_text"] = warnings


class _MLflow:
    """A run of MLflow. The record is the artifact `class_weights.json`, since parameters are limited to 6000
    characters.
    """

    def __init__(self, run: Any) -> None:
        from mlflow import MlflowClient

        self.client, self.run_id = MlflowClient(), run.info.run_id

    def begin(self, facts: Scalars, record: dict[str, Any]) -> None:
        for name, value in facts.items():
            self.client.log_param(self.run_id, _mlflow_name(name), value)
        self.client.log_dict(self.run_id, record, "class_weights.json")

    def log(self, metrics: Mapping[str, float], warnings: str, epoch: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        batch = [Metric(_mlflow_name(name), value, now, epoch) for name, value in metrics.items()]
        for start in range(0, len(batch), MLFLOW_BATCH):
            self.client.log_batch(self.run_id, metrics=batch[start : start + MLFLOW_BATCH])
        self.client.set_tag(self.run_id, "monitor.warnings", warnings)


def _mlflow_name(name: str) -> str:
    """Return a name with "_" for every character that MLflow rejects."""
    return re.sub(r"[^\w\-. /]", "_", name)


class _TensorBoard:
    """A `SummaryWriter` of TensorBoard."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def begin(self, facts: Scalars, record: dict[str, Any]) -> None:
        rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
        self.writer.add_text("class_weights", f"| | |\n|---|---|\n{rows}")
        self.writer.add_text("class_weights/record", f"```\n{json.dumps(record)}\n```")

    def log(self, metrics: Mapping[str, float], warnings: str, epoch: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, epoch)
        if warnings:
            self.writer.add_text("monitor/warnings_text", warnings, epoch)


def tracker_of(logger: Any) -> Tracker:
    """Return the tracker of a run, a writer or a logger. Raises `InvalidParameter` for anything else."""
    package = type(logger).__module__.split(".")[0]
    if package == "wandb" and hasattr(logger, "define_metric"):
        return _WandB(logger)
    if package == "mlflow" and hasattr(logger, "info"):
        return _MLflow(logger)
    if hasattr(logger, "add_scalar") and hasattr(logger, "add_text"):
        return _TensorBoard(logger)
    if hasattr(logger, "begin") and hasattr(logger, "log"):
        custom: Tracker = logger
        return custom
    raise InvalidParameter(
        (
            "loggers",
            f"{type(logger).__name__} is not supported; give a run of wandb.init(), a run of "
            "mlflow.start_run(), a SummaryWriter, or an object with the methods of "
            "statsvc.integrations.trackers.Tracker",
        )
    )


def trackers_of(loggers: Any) -> list[Tracker]:
    """Return the trackers of one logger or of a list of loggers. Raises as `tracker_of` does."""
    return [tracker_of(logger) for logger in (loggers if isinstance(loggers, list | tuple) else [loggers])]


def active_trackers() -> list[Tracker]:
    """Return the trackers of the W&B and MLflow runs that are active in this process."""
    wandb, mlflow = sys.modules.get("wandb"), sys.modules.get("mlflow")
    runs = [getattr(wandb, "run", None), None if mlflow is None else mlflow.active_run()]
    return [tracker_of(run) for run in runs if run is not None]
