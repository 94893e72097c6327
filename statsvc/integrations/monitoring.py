"""Watch each class of a run: its IoU into the trackers, and a warning where weights do harm or no good."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from statsvc.integrations import trackers
from statsvc.integrations.symptoms import about_frequent, about_loss, about_zero, classes_of, iou_of
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.weight_warnings import as_dicts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from statsvc.integrations.symptoms import Numbers, Symptom

_log = logging.getLogger("statsvc.monitor")


class Monitor:
    """Called once an epoch with each class's IoU; logs it and returns what is wrong.

    ::

        watch = Monitor(weights, baseline=iou_of_the_run_without_weights)
        for epoch in range(epochs):
            …
            warnings = watch(per_class_iou, loss=mean_loss)
        warnings = watch.end()

    weights   `ClassWeights`, which know the classes' names and frequencies, or one number for each class
    baseline  the IoU of each class to compare with, such as that at the end of a run without weights: [C],
              0 … 1, NaN where there is none. Without it no class is found to be down
    loggers   one, or a list: runs of Weights & Biases and MLflow, `SummaryWriter`s of TensorBoard, a
              `trackers.Tracker` of your own. None: the runs of W&B and MLflow active in this process now; ():
              no logger

    A tracker that fails costs a line in the log `statsvc.monitor`, never the run. Raises `InvalidParameter`
    for numbers that do not fit the classes, and a logger that is none.
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
        self._trackers = trackers.active() if loggers is None else trackers.every(loggers)
        self._begun = False
        self._losses: list[float] = []
        self._history: list[NDArray[np.float64]] = []
        self._said: dict[str, frozenset[int]] = {}

    def __call__(
        self, per_class_iou: Numbers, *, loss: float | Numbers | None = None, epoch: int | None = None
    ) -> list[dict[str, str]]:
        """Log an epoch and return what is newly wrong, each warning with "code" and "message".

        per_class_iou  [C], 0 … 1, NaN for a class that is neither in the labels nor predicted
        loss           the mean loss of the epoch, or those of the epochs since the last call
        epoch          its number; by default one more than in the last call, from 0

        The codes: loss_not_finite; loss_rising (the median of the last three losses is more than 10 % above
        the lowest such median); frequent_class_down (a class with at least 1/C of the pixels is more than 2
        points below the baseline and no longer rises); class_at_zero (in each of the last three epochs). The
        warnings also go to the log `statsvc.monitor`. Each is given once, and again where it is about another
        class, or comes back; the trackers get those that hold.
        """
        return self._looked(per_class_iou, loss, epoch, finished=False)

    def _looked(
        self, per_class_iou: Numbers, loss: float | Numbers | None, epoch: int | None, finished: bool
    ) -> list[dict[str, str]]:
        iou = iou_of("per_class_iou", per_class_iou, self.classes)
        self._losses += _losses(loss)
        self._history.append(iou)
        found, new = self._judged(finished)
        number = len(self._history) - 1 if epoch is None else epoch
        self._tell(iou, [one.message for one in found], number)
        return new

    def end(self) -> list[dict[str, str]]:
        """Return what is newly wrong at the end of a run, where no class has epochs left to rise in."""
        return self._judged(finished=True)[1] if self._history else []

    def _judged(self, finished: bool) -> tuple[list[Symptom], list[dict[str, str]]]:
        """Return everything that is wrong, and what of it was not said before, which goes to the log."""
        found = [*about_loss(self._losses), *about_zero(self._history, self.classes, finished)]
        if self.baseline is not None:
            found += about_frequent(self._history, self.baseline, self.classes, finished)
        new = [one for one in found if one.code not in self._said or one.about - self._said[one.code]]
        self._said = {one.code: one.about for one in found}
        for one in new:
            _log.warning("%s", one.message)
        return found, as_dicts((one.code, one.message) for one in new)

    def _tell(self, iou: NDArray[np.float64], warnings: list[str], epoch: int) -> None:
        known = [(name, float(value)) for name, value in zip(self.classes.names, iou, strict=True)]
        known = [(name, value) for name, value in known if not math.isnan(value)]
        metrics = {f"iou/{name}": value for name, value in known}
        if known:
            metrics["monitor/mean_iou"] = sum(value for _, value in known) / len(known)
        if self._losses:
            metrics["monitor/loss"] = self._losses[-1]
        metrics["monitor/warnings"] = len(warnings)
        text = "\n\n".join(warnings)
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
    loggers: Any = None,
) -> list[dict[str, str]]:
    """Look at a run at its end: as `Monitor`, for one call, and without waiting for further epochs.

    `loss` may be the losses of all epochs, so that a rise is seen.
    """
    watch = Monitor(weights, baseline=baseline, loggers=loggers)
    return watch._looked(per_class_iou, loss, epoch, finished=True)


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
