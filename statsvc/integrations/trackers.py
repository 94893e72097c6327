"""Experiment trackers: Weights & Biases, MLflow, TensorBoard.

Each is told the weights once and the numbers of each epoch. None of them is imported here: whoever has a run
of one has imported it.
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

    Scalars = Mapping[str, float | int | str | bool]


class Tracker(Protocol):
    """What a monitor asks of a tracker; anything with these two methods is one."""

    def begin(self, facts: Scalars, record: dict[str, Any]) -> None:
        """Keep the weights: `facts` flat for a table of runs, `record` whole (`ClassWeights.to_dict`)."""

    def log(self, metrics: Mapping[str, float], warnings: str, epoch: int) -> None:
        """Keep the numbers of an epoch, and its warnings as one text, which may be empty."""


class _WandB:
    """A run of Weights & Biases. Its step is the script's: numbers are drawn over `monitor/epoch`."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def begin(self, facts: Scalars, record: dict[str, Any]) -> None:
        self.run.config.update({**facts, "class_weights": record}, allow_val_change=True)
        self.run.define_metric("monitor/epoch")
        for name in ("iou/*", "monitor/mean_iou", "monitor/loss", "monitor/warnings"):
            self.run.define_metric(name, step_metric="monitor/epoch")

    def log(self, metrics: Mapping[str, float], warnings: str, epoch: int) -> None:
        # No step: it would have to be above every step that the script has logged, or be dropped.
        self.run.log({**metrics, "monitor/epoch": epoch})
        self.run.summary["monitor/warnings_text"] = warnings


class _MLflow:
    """A run of MLflow. The record is an artifact, `class_weights.json`: a parameter holds 6000 characters."""

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
        found = [Metric(_mlflow_name(name), value, now, epoch) for name, value in metrics.items()]
        for start in range(0, len(found), 1000):  # MLflow's limit of a request
            self.client.log_batch(self.run_id, metrics=found[start : start + 1000])
        self.client.set_tag(self.run_id, "monitor.warnings", warnings)


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name)


class _TensorBoard:
    """A `SummaryWriter`."""

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


def tracker(logger: Any) -> Tracker:
    """Return the tracker for a run, a writer or a logger. Raises `InvalidParameter` for other things."""
    package = type(logger).__module__.split(".")[0]
    if package == "wandb" and hasattr(logger, "define_metric"):
        return _WandB(logger)
    if package == "mlflow" and hasattr(logger, "info"):
        return _MLflow(logger)
    if hasattr(logger, "add_scalar") and hasattr(logger, "add_text"):
        return _TensorBoard(logger)
    if hasattr(logger, "begin") and hasattr(logger, "log"):
        own: Tracker = logger
        return own
    raise InvalidParameter(
        (
            "loggers",
            f"{type(logger).__name__} is not one of: a run of wandb.init(), a run of mlflow.start_run(), a "
            "SummaryWriter, an object with begin and log as statsvc.integrations.trackers.Tracker has them",
        )
    )


def every(loggers: Any) -> list[Tracker]:
    """Return the trackers of one logger or several. Raises `InvalidParameter` where one is none."""
    return [tracker(one) for one in (loggers if isinstance(loggers, list | tuple) else [loggers])]


def active() -> list[Tracker]:
    """Return the trackers of the runs that are active in this process: W&B's and MLflow's."""
    wandb, mlflow = sys.modules.get("wandb"), sys.modules.get("mlflow")
    runs = [getattr(wandb, "run", None), None if mlflow is None else mlflow.active_run()]
    return [tracker(run) for run in runs if run is not None]
