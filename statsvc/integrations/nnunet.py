"""A trainer for nnU-Net whose cross-entropy has class weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from statsvc.errors import InvalidParameter
from statsvc.losses.weighting import vector_of

try:
    from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
except ImportError:
    raise ImportError(f"{__name__} needs nnU-Net: pip install nnunetv2") from None

if TYPE_CHECKING:
    from torch import nn

    from statsvc.weighting.class_weights import ClassWeights


class nnUNetTrainerClassWeights(nnUNetTrainer):  # noqa: N801  nnU-Net's way
    """nnU-Net's own loss, Dice and cross-entropy, with class weights in cross-entropy.

    They are those of the dataset of nnU-Net's name (`Dataset004_Hippocampus`) on the server at STATSVC_URL,
    asked for once when a training begins. `query` is what is asked; a subclass of your own changes it::

        class MyTrainer(nnUNetTrainerClassWeights):
            query = {"dataset": "hippocampus", "method": "enet"}

    The log names the weights, and `class_weights.json` in the fold's folder holds the whole answer; a
    training that is continued takes them from there and asks nobody. Raises `InvalidParameter` for datasets
    with regions, whose loss is a sigmoid for each region, and for methods that give no weights
    (`logit_adjustment`).
    """

    query: ClassVar[dict[str, Any]] = {"method": "sqrt_inv_freq"}
    _continued = False

    def _build_loss(self) -> nn.Module:
        if self.label_manager.has_regions:
            raise InvalidParameter(
                (
                    "labels",
                    f"{self.plans_manager.dataset_name} has regions, and its loss a sigmoid for each: class "
                    "weights are for labels; use nnUNetTrainer",
                )
            )
        weights = self._class_weights()
        loss: Any = super()._build_loss()
        inner = getattr(loss, "loss", loss)  # of deep supervision
        ignored = self.label_manager.ignore_label
        options = {} if ignored is None else {"ignore_index": ignored}
        vector = vector_of(weights, "weights")
        assert vector is not None
        inner.ce = RobustCrossEntropyLoss(weight=vector.to(self.device), **options)
        self.print_to_log_file(f"class weights: {weights}, digest {weights.digest}: {weights.to_list()}")
        result: nn.Module = loss
        return result

    def _class_weights(self) -> ClassWeights:
        from statsvc.client.client import Client
        from statsvc.client.distributed import from_rank_zero
        from statsvc.weighting.class_weights import ClassWeights

        file = Path(self.output_folder) / "class_weights.json"

        def ask() -> ClassWeights:
            if self._continued and file.exists():
                return ClassWeights.from_dict(json.loads(file.read_text()))
            ignored = self.label_manager.ignore_label
            question = {
                "dataset": self.plans_manager.dataset_name,
                "num_classes": self.label_manager.num_segmentation_heads,
                **({} if ignored is None else {"ignore_index": [ignored]}),
                **self.query,
            }
            weights = Client().weights(**question)
            file.write_text(json.dumps(weights.to_dict()))
            return weights

        return from_rank_zero(ask)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue with the weights that the training was begun with."""
        self._continued = True
        super().load_checkpoint(filename_or_checkpoint)
