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
except ImportError as error:
    raise ImportError("nnU-Net is not installed. Run: pip install nnunetv2") from error

if TYPE_CHECKING:
    from torch import nn

    from statsvc.weighting.class_weights import ClassWeights


class nnUNetTrainerClassWeights(nnUNetTrainer):  # noqa: N801  the naming convention of nnU-Net
    """Trains with nnU-Net's own loss, Dice and cross-entropy, with class weights in cross-entropy.

    When training begins, the weights are requested from the server at STATSVC_URL, for the dataset with
    nnU-Net's name (such as `Dataset004_Hippocampus`). `query` has the arguments of `Client.weights`; change
    them in a subclass::

        class MyTrainer(nnUNetTrainerClassWeights):
            query = {"dataset": "hippocampus", "method": "enet"}

    The weights are written to the log and, as `ClassWeights.to_dict()`, to `class_weights.json` in the folder
    of the fold. A continued training reads them from there, without a request.

    Raises `InvalidParameter` for datasets with regions, whose loss has a sigmoid for each region, and for
    methods that do not return weights (`logit_adjustment`). Raises as `Client.weights` does.
    """

    query: ClassVar[dict[str, Any]] = {"method": "sqrt_inv_freq"}
    _continued = False

    def _build_loss(self) -> nn.Module:
        if self.label_manager.has_regions:
            raise InvalidParameter(
                (
                    "labels",
                    f"{self.plans_manager.dataset_name} has regions, whose loss has a sigmoid for each "
                    "region; class weights require labels, so use nnUNetTrainer",
                )
            )
        weights = self._class_weights()
        loss: Any = super()._build_loss()
        inner = getattr(loss, "loss", loss)  # unwrap deep supervision
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

        def load_or_request() -> ClassWeights:
            if self._continued and file.exists():
                return ClassWeights.from_dict(json.loads(file.read_text()))
            ignored = self.label_manager.ignore_label
            query = {
                "dataset": self.plans_manager.dataset_name,
                "num_classes": self.label_manager.num_segmentation_heads,
                **({} if ignored is None else {"ignore_index": [ignored]}),
                **self.query,
            }
            weights = Client().weights(**query)
            file.write_text(json.dumps(weights.to_dict()))
            return weights

        return from_rank_zero(load_or_request)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue a training with the weights that it began with."""
        self._continued = True
        super().load_checkpoint(filename_or_checkpoint)
