"""A callback for Lightning, of `lightning` or of `pytorch_lightning`, whichever the script uses."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from statsvc.integrations.monitoring import Monitor
from statsvc.integrations.ranks import require_same

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.integrations.symptoms import Numbers
    from statsvc.weighting.class_weights import ClassWeights


def _callback() -> Any:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        if (loaded := sys.modules.get(name)) is not None:  # the trainer's
            return loaded.Callback
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError:
            raise ImportError(f"{__name__} needs Lightning: pip install lightning") from None
    return Callback


class ClassWeightsCallback(_callback()):  # type: ignore[misc]
    """Keeps the weights with the run, and watches each class.

    weights   the `ClassWeights` of the loss
    iou       returns each class's IoU, [C], from the module at the end of a validation epoch, such as
              `lambda module: module.iou.compute()` of a `torchmetrics` metric; called on every rank. Without
              it nothing is watched
    loss      the name under which the module logs the training loss, such as "train_loss"
    baseline  as in `statsvc.integrations.Monitor`

    Every checkpoint holds the whole answer, at `["callbacks"]["ClassWeightsCallback"]["record"]`, which
    `Client.weights(pinned=…)` takes. Resuming from one with other weights warns. When fitting begins, the
    weights go to the trainer's loggers as hyperparameters; where the ranks' weights differ, all raise
    `Conflict`. `warnings` holds all so far, on rank 0; they go to the log `statsvc.monitor`.
    """

    def __init__(
        self,
        weights: ClassWeights,
        *,
        iou: Callable[[Any], Numbers] | None = None,
        loss: str | None = None,
        baseline: Numbers | None = None,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.iou = iou
        self.loss = loss
        self.warnings: list[dict[str, str]] = []
        self._tracker = _Loggers()
        self._watch = Monitor(weights, baseline=baseline, loggers=[self._tracker])
        self._last: Numbers | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Compare the ranks' weights, and give them to the loggers."""
        require_same(self.weights)
        self._tracker.trainer = trainer
        facts = self.weights.to_log() | {"class_weights/_digest": self.weights.digest}
        for logger in trainer.loggers:
            logger.log_hyperparams(facts)  # does nothing on other ranks than 0

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Take each class's IoU, before the module resets its metrics."""
        if self.iou is not None and not trainer.sanity_checking:
            self._last = self.iou(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log an epoch that was validated, and note what is wrong."""
        # Read on every rank: a metric logged with sync_dist is reduced when it is read.
        loss = None if self.loss is None else trainer.callback_metrics.get(self.loss)
        if self._last is not None and trainer.is_global_zero:
            self.warnings += self._watch(
                self._last, loss=None if loss is None else float(loss), epoch=trainer.current_epoch
            )
        self._last = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Note what is wrong at the end."""
        if trainer.is_global_zero:
            self.warnings += self._watch.end()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"record": self.weights.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn where a checkpoint was trained with other weights; these stay."""
        from statsvc.weighting.class_weights import ClassWeights

        then = ClassWeights.from_dict(state_dict["record"])
        if then.digest != self.weights.digest:
            warnings.warn(
                f"the checkpoint was trained with other class weights: {then} then, {self.weights} now; "
                "to go on with the same, give Client.weights its record as pinned",
                UserWarning,
                stacklevel=2,
            )


class _Loggers:
    """The trainer's loggers as a `Tracker`. The step is the trainer's, as in what Lightning logs itself."""

    trainer: Any = None

    def begin(self, facts: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Do nothing: the loggers have the weights since fitting began."""

    def log(self, metrics: Mapping[str, float], warnings: str, epoch: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics({**metrics, "epoch": epoch}, step=self.trainer.global_step)
