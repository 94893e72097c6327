"""A config fragment for MMSegmentation that trains with class weights. Does not import MMSegmentation."""

from __future__ import annotations

import pprint
from typing import Any

from statsvc.errors import InvalidParameter
from statsvc.weighting.class_weights import ClassWeights


def config(weights: ClassWeights, **options: Any) -> str:
    """Return the text of a config file that replaces `decode_head.loss_decode` by statsvc's loss.

    options  options of `statsvc.losses.CombinedLoss`, such as ce_weight=1, dice_weight=0 for cross-entropy

    The file contains the weights with their provenance. The config that MMSegmentation saves in the work
    folder and in checkpoints therefore documents the weights, and a run does not need a server. Put the file
    last in `_base_`.

    MMSegmentation's own `CrossEntropyLoss(class_weight=…)` is not used: in release 1.2.2 it looks up a weight
    for the ignored id 255 and raises IndexError. Older releases divide by the number of pixels, so the scale
    of the loss depends on the weights unless they are normalized with normalize=expected.

    Raises `InvalidParameter` unless `weights` is a `ClassWeights`.
    """
    if not isinstance(weights, ClassWeights):
        raise InvalidParameter(
            (
                "weights",
                f"{type(weights).__name__} does not record the provenance of its numbers; give the "
                "ClassWeights that Client.weights returned",
            )
        )
    loss = {"type": "StatsvcLoss", "class_weights": weights.to_dict(), **options}
    return (
        f"# {weights.method} of {weights.dataset}, version {weights.version}, digest {weights.digest}\n"
        "custom_imports = dict(imports=['statsvc.integrations.mmseg_loss'], allow_failed_imports=False)\n"
        f"loss_decode = {pprint.pformat(loss, width=100, sort_dicts=False)}\n"
        "model = dict(decode_head=dict(loss_decode=dict(_delete_=True, **loss_decode)))\n"
    )
