"""A small training run with Lightning."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from support.small_segmentation import batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # raised by Lightning's own imports
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger
    from torchmetrics.classification import MulticlassJaccardIndex

from statsvc.losses import CombinedLoss

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.integrations.lightning import ClassWeightsCallback
    from statsvc.weighting.class_weights import ClassWeights

__all__ = ["Net", "fit", "loader", "pl"]

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Options of a `Trainer` that prints nothing."""


class Net(pl.LightningModule):  # type: ignore[misc]  # Lightning is untyped here
    """A linear network that records its losses.

    steps  (logits, labels, loss) of every training step, detached
    """

    def __init__(self, weights: ClassWeights) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 4, 1)
        self.criterion = CombinedLoss(class_weights=weights)
        self.iou = MulticlassJaccardIndex(4, average="none", ignore_index=255)
        self.steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        images, labels = batch
        logits = self.net(images)
        loss: torch.Tensor = self.criterion(logits, labels)
        self.steps.append((logits.detach(), labels, loss.detach()))
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        images, labels = batch
        self.iou.update(self.net(images).argmax(1), labels)

    def on_validation_epoch_end(self) -> None:
        self.iou.reset()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def loader() -> DataLoader[Any]:
    """Return a loader of four batches."""
    return DataLoader([batch(seed) for seed in range(4)], batch_size=None)  # type: ignore[arg-type]


def fit(folder: Path, callback: ClassWeightsCallback, epochs: int, checkpoint: Path | None = None) -> Net:
    """Train a network, save the checkpoint `last.ckpt` in the folder, and return the network."""
    pl.seed_everything(0)
    net = Net(callback.weights)
    trainer = pl.Trainer(
        **QUIET,
        max_epochs=epochs,
        callbacks=[callback],
        logger=CSVLogger(folder, name="", version="run"),
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    trainer.fit(net, loader(), loader(), ckpt_path=None if checkpoint is None else str(checkpoint))
    trainer.save_checkpoint(folder / "last.ckpt")
    return net
