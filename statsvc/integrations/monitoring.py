"""Watch each class of a run: its IoU into the trackers, and a warning where weights do harm or no good."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from statsvc.integrations import trackers
from statsvc.integrations.symptoms import about_frequent, about_loss, about_zero, classes_of, iou_of
from statsvc.notices import as_dicts
from statsvc.result import ClassWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from statsvc.integrations.symptoms import Numbers

_log = logging.getLogger("statsvc.monitor")


class Monitor:
    """Called once an epoch with each class's IoU; logs it and returns what is wrong.

    ::

        watch = Monitor(weights, baseline=iou_of_the_run_without_weights)
        for epoch in range(epochs):
            …
            warnings = watch(per_class_iou, loss=mean_loss)

    weights   `ClassWeights`, which know the classes' names and frequencies, or one number for each class
    baseline  the IoU of each class to compare with, such as that of a run without weights: [C], 0 … 1, NaN
              where there is none. Without it no class is found to be down
    loggers   runs of Weights & Biases and MLflow, `SummaryWriter`s of TensorBoard, a `trackers.Tracker` of
              your own. None: the runs of W&B and MLflow active in this process now; (): no logger

    A tracker that fails costs a line in the log `statsvc.monitor`, never the run. Raises `InvalidParameter`
    for numbers that do not fit the classes, and a logger that is none.
    """

    def __init__(
        self,
        weights: ClassWeights | Numbers,
        *,
        baseline: Numbers | None = None,
        loggers: Iterable[Any] | None = None,
    ) -> None:
        self.weights = weights
        self.classes = classes_of(weights)
        self.baseline = None if baseline is None else iou_of("baseline", baseline, self.classes)
        self._trackers = trackers.active() if loggers is None else [trackers.tracker(one) for one in loggers]
        self._begun = False
        self._losses: list[float] = []
        self._history: list[NDArray[np.float64]] = []

    def __call__(
        self, per_class_iou: Numbers, *, loss: float | Numbers | None = None, epoch: int | None = None
    ) -> list[dict[str, str]]:
        """Log an epoch and return its warnings, each with "code" and "message".

        per_class_iou  [C], 0 … 1, NaN for a class that is neither in the labels nor predicted
        loss           the mean loss of the epoch, or those of the epochs since the last call
        epoch          its number; by default one more than in the last call, from 0

        The codes: loss_not_finite; loss_rising (the median of the last three losses is more than 10 % above
        the lowest such median); frequent_class_down (a class with at least 1/C of the pixels has lost more
        than 2 points against the baseline); class_at_zero. The warnings also go to the log `statsvc.monitor`.
        """
        iou = iou_of("per_class_iou", per_class_iou, self.classes)
        self._losses += _losses(loss)
        self._history.append(iou)
        found = [*about_loss(self._losses), *about_zero(self._history, self.classes)]
        if self.baseline is not None:
            found += about_frequent(iou, self.baseline, self.classes)
        warnings = as_dicts(found)
        for warning in warnings:
            _log.warning("%s", warning["message"])
        number = len(self._history) - 1 if epoch is None else epoch
        self._tell(iou, warnings, number)
        return warnings

    def _tell(self, iou: NDArray[np.float64], warnings: list[dict[str, str]], epoch: int) -> None:
        known = [(name, float(value)) for name, value in zip(self.classes.names, iou, strict=True)]
        known = [(name, value) for name, value in known if not math.isnan(value)]
        metrics = {f"iou/{name}": value for name, value in known}
        if known:
            metrics["monitor/mean_iou"] = sum(value for _, value in known) / len(known)
        if self._losses:
            metrics["monitor/loss"] = self._losses[-1]
        metrics["monitor/warnings"] = len(warnings)
        text = "\n\n".join(warning["message"] for warning in warnings)
        if not self._begun:
            self._begun = True
            facts, record = _described(self.weights, self.classes.names)
            self._each(lambda one: one.begin(facts, record))
        self._each(lambda one: one.log(metrics, text, epoch))

    def _each(self, tell: Callable[[trackers.Tracker], None]) -> None:
        for one in self._trackers:
            try:
                tell(one)
            except Exception as problem:  # noqa: BLE001  no tracker's outage ends a training run
                _log.warning("%s did not take this epoch: %s", type(one).__name__.lstrip("_"), problem)


def monitor(
    per_class_iou: Numbers,
    weights: ClassWeights | Numbers,
    *,
    baseline: Numbers | None = None,
    loss: float | Numbers | None = None,
    epoch: int | None = None,
    loggers: Iterable[Any] | None = None,
) -> list[dict[str, str]]:
    """Look at one moment of a run, such as its end: as `Monitor`, for one call.

    `loss` may be the losses of all epochs, so that a rise is seen.
    """
    return Monitor(weights, baseline=baseline, loggers=loggers)(per_class_iou, loss=loss, epoch=epoch)


def _losses(loss: float | Numbers | None) -> list[float]:
    if loss is None:
        return []
    values: Sequence[float] | float = loss.tolist() if hasattr(loss, "tolist") else loss
    return [float(one) for one in values] if isinstance(values, list | tuple) else [float(values)]  # type: ignore[arg-type]


def _described(
    weights: ClassWeights | Numbers, names: Sequence[str]
) -> tuple[dict[str, float | int | str | bool], dict[str, Any]]:
    """Return the weights flat, for a table of runs, and whole."""
    if isinstance(weights, ClassWeights):
        return weights.to_log() | {"class_weights/_digest": weights.digest}, weights.to_dict()
    by_name = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return {f"class_weights/{name}": weight for name, weight in by_name.items()}, {"weights": by_name}
