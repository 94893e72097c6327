"""Monitoring of each class during training: logs the IoU of each class, and warns about harmful weights."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from statsvc.integrations.symptoms import (
    baseline_symptoms,
    classes_of,
    iou_of,
    loss_symptoms,
    zero_iou_symptoms,
)
from statsvc.integrations.trackers import active_trackers, facts_of, trackers_of
from statsvc.weighting.class_weights import ClassWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from statsvc.integrations.symptoms import Numbers, Symptom
    from statsvc.integrations.trackers import Scalars, Tracker

_log = logging.getLogger("statsvc.monitor")


class Monitor:
    """Logs the IoU of each class once per epoch, and returns warnings.

    ::

        watch = Monitor(weights, baseline=iou_of_the_run_without_weights)
        for epoch in range(epochs):
            …
            warnings = watch(per_class_iou, loss=mean_loss)
        warnings = watch.end()

    weights   `ClassWeights`, which have the names and frequencies of the classes, or one number for each
              class
    baseline  IoU of each class for comparison, such as that at the end of a run without weights: [C], 0 … 1,
              NaN for a class without one. Without a baseline, lost and gained IoU is not detected
    loggers   a logger or a list of them: runs of Weights & Biases and MLflow, TensorBoard's `SummaryWriter`,
              or an object with the methods of `trackers.Tracker`. None: the runs of W&B and MLflow that are
              active in this process. (): no logger

    If a logger fails, a message is written to the log `statsvc.monitor`, and the training run continues.

    Raises `InvalidParameter` for numbers that do not match the classes, and for an unsupported logger.
    """

    def __init__(
        self,
        weights: ClassWeights | Numbers,
        *,
        baseline: Numbers | None = None,
        loggers: Any = None,
    ) -> None:
        self.weights = weights
        self.classes = classes_of(weights)
        self.baseline = None if baseline is None else iou_of("baseline", baseline, self.classes)
        self._trackers = active_trackers() if loggers is None else trackers_of(loggers)
        self._begun = False
        self._losses: list[float] = []
        self._iou_history: list[NDArray[np.float64]] = []
        self._reported: dict[str, frozenset[int]] = {}

    def __call__(
        self, per_class_iou: Numbers, *, loss: float | Numbers | None = None, epoch: int | None = None
    ) -> list[dict[str, str]]:
        """Log an epoch and return the new warnings, each a dict with "code" and "message".

        per_class_iou  [C], 0 … 1, NaN for a class that is neither in the labels nor predicted
        loss           mean loss of the epoch, or those of all epochs since the last call
        epoch          number of the epoch; default: one more than in the last call, starting from 0

        Codes: `loss_not_finite`; `loss_rising` (the median of the last three losses is more than 10 % above
        the lowest such median); `frequent_class_down` (a class with at least 1/C of the pixels is more than
        2 points below the baseline and no longer improves); `rare_class_down` (the same for the other
        classes); `class_at_zero` (the IoU of a class is 0 in each of the last three epochs). `class_up`
        reports a gain: a class is more than 2 points above the baseline.

        The warnings are also written to the log `statsvc.monitor`, gains at level INFO. A warning is returned
        once, and again if it concerns another class or recurs. The loggers get all current warnings at every
        epoch, without the gains, and the difference of each class from its baseline.

        Raises `InvalidParameter` for numbers that do not match the classes.
        """
        return self._observe(per_class_iou, loss, epoch, finished=False)

    def _observe(
        self, per_class_iou: Numbers, loss: float | Numbers | None, epoch: int | None, finished: bool
    ) -> list[dict[str, str]]:
        iou = iou_of("per_class_iou", per_class_iou, self.classes)
        self._losses += _losses(loss)
        self._iou_history.append(iou)
        symptoms, new_warnings = self._diagnose(finished)
        number = len(self._iou_history) - 1 if epoch is None else epoch
        self._log_epoch(iou, [symptom.message for symptom in symptoms if symptom.problem], number)
        return new_warnings

    def end(self) -> list[dict[str, str]]:
        """Return the new warnings at the end of a run, when no class can improve any more."""
        return self._diagnose(finished=True)[1] if self._iou_history else []

    def _diagnose(self, finished: bool) -> tuple[list[Symptom], list[dict[str, str]]]:
        """Return all current symptoms, and the new ones as warnings, which are also logged."""
        symptoms = [
            *loss_symptoms(self._losses),
            *zero_iou_symptoms(self._iou_history, self.classes, finished),
        ]
        if self.baseline is not None:
            symptoms += baseline_symptoms(self._iou_history, self.baseline, self.classes, finished)
        new = [
            symptom
            for symptom in symptoms
            if symptom.code not in self._reported or symptom.class_ids - self._reported[symptom.code]
        ]
        self._reported = {symptom.code: symptom.class_ids for symptom in symptoms}
        for symptom in new:
            _log.log(logging.WARNING if symptom.problem else logging.INFO, "%s", symptom.message)
        return symptoms, [{"code": symptom.code, "message": symptom.message} for symptom in new]

    def _log_epoch(self, iou: NDArray[np.float64], warnings: list[str], epoch: int) -> None:
        by_name = {name: float(value) for name, value in zip(self.classes.names, iou, strict=True)}
        by_name = {name: value for name, value in by_name.items() if not math.isnan(value)}
        metrics = {f"iou/{name}": value for name, value in by_name.items()}
        if self.baseline is not None:
            change = dict(zip(self.classes.names, iou - self.baseline, strict=True))
            metrics |= {f"iou_change/{n}": float(v) for n, v in change.items() if not math.isnan(v)}
        if by_name:
            metrics["monitor/mean_iou"] = sum(by_name.values()) / len(by_name)
        if self._losses:
            metrics["monitor/loss"] = self._losses[-1]
        metrics["monitor/warnings"] = len(warnings)
        text = "\n\n".join(warnings)
        if not self._begun:
            self._begun = True
            facts, record = _facts_and_record(self.weights, self.classes.names)
            self._on_each_tracker(lambda tracker: tracker.begin(facts, record))
        self._on_each_tracker(lambda tracker: tracker.log(metrics, text, epoch))

    def _on_each_tracker(self, action: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                action(tracker)
            except Exception as problem:  # noqa: BLE001  a tracker's failure must not end a training run
                name = type(tracker).__name__.lstrip("_")
                _log.warning("%s failed to log this epoch: %s. Training continues", name, problem)


def monitor(
    per_class_iou: Numbers,
    weights: ClassWeights | Numbers,
    *,
    baseline: Numbers | None = None,
    loss: float | Numbers | None = None,
    epoch: int | None = None,
    loggers: Any = None,
) -> list[dict[str, str]]:
    """Log a finished run and return its warnings, as a `Monitor` that is called once at the end of the run.

    loss  final loss, or those of all epochs, which is needed to detect a rising loss

    The other arguments, the warnings and the errors are those of `Monitor`. A warning does not require
    several epochs.
    """
    watch = Monitor(weights, baseline=baseline, loggers=loggers)
    return watch._observe(per_class_iou, loss, epoch, finished=True)


def _losses(loss: float | Numbers | None) -> list[float]:
    if loss is None:
        return []
    values: Sequence[float] | float = loss.tolist() if hasattr(loss, "tolist") else loss
    if isinstance(values, list | tuple):
        return [float(value) for value in values]
    return [float(values)]  # type: ignore[arg-type]


def _facts_and_record(
    weights: ClassWeights | Numbers, names: Sequence[str]
) -> tuple[Scalars, dict[str, Any]]:
    """Return the weights as flat scalars for a table of runs, and as a complete record."""
    if isinstance(weights, ClassWeights):
        return facts_of(weights), weights.to_dict()
    by_name = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return {f"class_weights/{name}": weight for name, weight in by_name.items()}, {"weights": by_name}
