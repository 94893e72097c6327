"""A callback for Lightning, for the package that the script uses: `lightning` or `pytorch_lightning`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from statsvc.integrations.checkpoints import warn_if_different
from statsvc.integrations.monitoring import Monitor
from statsvc.integrations.ranks import require_same
from statsvc.integrations.trackers import facts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statsvc.integrations.symptoms import Numbers
    from statsvc.weighting.class_weights import ClassWeights


def _callback_class() -> Any:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        if (imported := sys.modules.get(name)) is not None:  # the package of the script's Trainer
            return imported.Callback
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise ImportError("Lightning is not installed. Run: pip install lightning") from error
    return Callback


class ClassWeightsCallback(_callback_class()):  # type: ignore[misc]
    """Saves the weights in checkpoints, logs them, and monitors the IoU of each class.

    weights   the `ClassWeights` of the loss
    iou       function that returns the IoU of each class, [C], from the module at the end of a validation
              epoch, such as `lambda module: module.iou.compute()` for a `torchmetrics` metric. It is called
              on every rank. None: do not monitor
    loss      name under which the module logs the training loss, such as "train_loss"
    baseline  as in `statsvc.integrations.Monitor`

    Every checkpoint has the complete record of the weights, `ClassWeights.to_dict()`, at
    `["callbacks"]["ClassWeightsCallback"]["record"]`; pass it to `Client.weights(pinned=…)`. Resuming with
    other weights warns. When fitting begins, the weights are logged as hyperparameters, and `Conflict` is
    raised on every rank if the ranks have different weights.

    `warnings` has every warning and gain so far, on rank 0. They are also logged to `statsvc.monitor`.
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
        self._tracker = _TrainerLoggers()
        self._monitor = Monitor(weights, baseline=baseline, loggers=[self._tracker])
        self._epoch_iou: Numbers | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Compare the weights of the ranks, and log them as hyperparameters."""
        require_same(self.weights)
        self._tracker.trainer = trainer
        facts = facts_of(self.weights)
        for logger in trainer.loggers:
            logger.log_hyperparams(facts)  # does nothing on ranks other than 0

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Read the IoU of each class before the module resets its metrics."""
        if self.iou is not None and not trainer.sanity_checking:
            self._epoch_iou = self.iou(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch if it was validated, and collect its warnings."""
        # Read on every rank, because reading a metric that was logged with sync_dist is a collective.
        loss = None if self.loss is None else trainer.callback_metrics.get(self.loss)
        if self._epoch_iou is not None and trainer.is_global_zero:
            self.warnings += self._monitor(
                self._epoch_iou, loss=None if loss is None else float(loss), epoch=trainer.current_epoch
            )
        self._epoch_iou = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Collect the warnings at the end of the run."""
        if trainer.is_global_zero:
            self.warnings += self._monitor.end()

    def state_dict(self) -> dict[str, Any]:
        """Return the record of the weights for a checkpoint."""
        return {"record": self.weights.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if the checkpoint was trained with other weights. The weights of this run do not change."""
        warn_if_different(state_dict["record"], self.weights)


class _TrainerLoggers:
    """The trainer's loggers as a `Tracker`. The step is the trainer's, as in what Lightning logs."""

    trainer: Any = None

    def begin(self, facts: Mapping[str, Any], record: dict[str, Any]) -> None:
        """Do nothing: the weights were logged when fitting began."""

    def log(self, metrics: Mapping[str, float], warnings: str, epoch: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics({**metrics, "epoch": epoch}, step=self.trainer.global_step)
