"""A config fragment for MMSegmentation that trains with class weights. Made without MMSegmentation."""

from __future__ import annotations

import pprint
from typing import Any

from statsvc.errors import InvalidParameter
from statsvc.weighting.class_weights import ClassWeights


def config(weights: ClassWeights, **options: Any) -> str:
    """Return a config file's text that puts statsvc's loss in the place of `decode_head.loss_decode`.

    options  those of `statsvc.losses.CombinedLoss`, such as ce_weight=1, dice_weight=0 for cross-entropy

    The weights stand in it with their origin, so the config that a run keeps, in its work folder and in its
    checkpoints, says which they were, and no server is asked when it is run. Put it last in `_base_`.

    It does not use MMSegmentation's own `CrossEntropyLoss(class_weight=…)`: that of 1.2.2 looks up a weight
    for the ignored id 255 and ends in an IndexError; older ones divide by the number of pixels, so that the
    loss keeps its scale only with normalize=expected.
    """
    if not isinstance(weights, ClassWeights):
        raise InvalidParameter(
            (
                "weights",
                f"{type(weights).__name__} does not say where its numbers are from; give the ClassWeights "
                "that Client.weights returned",
            )
        )
    loss = {"type": "StatsvcLoss", "class_weights": weights.to_dict(), **options}
    return (
        f"# {weights.method} of {weights.dataset}, version {weights.version}, digest {weights.digest}\n"
        "custom_imports = dict(imports=['statsvc.integrations.mmseg_loss'], allow_failed_imports=False)\n"
        f"loss_decode = {pprint.pformat(loss, width=100, sort_dicts=False)}\n"
        "model = dict(decode_head=dict(loss_decode=dict(_delete_=True, **loss_decode)))\n"
    )
