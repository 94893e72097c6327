"""A config fragment for MMSegmentation that trains with class weights. Does not import MMSegmentation."""

from __future__ import annotations

import pprint
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter
from statsvc.weighting.class_weights import ClassWeights

if TYPE_CHECKING:
    from collections.abc import Mapping


_REPLACED = ("CrossEntropyLoss", "OhemCrossEntropy")


def config(weights: ClassWeights, **options: Any) -> str:
    """Return the text of a config file that replaces cross-entropy in every head by statsvc's loss.

    options  options of `statsvc.losses.CombinedLoss`, such as ce_weight=1, dice_weight=0 for cross-entropy

    Write `_base_ = "…"` before the text. `with_loss` says what is replaced. The file contains the
    weights with their provenance. The config that MMSegmentation saves in the work folder and in checkpoints
    therefore documents the weights, and a run does not need a server.

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
        "from statsvc.integrations.mmseg import with_loss\n\n"
        f"# {weights.method} of {weights.dataset}, version {weights.version}, digest {weights.digest}\n"
        "custom_imports = dict(imports=['statsvc.integrations.mmseg_loss'], allow_failed_imports=False)\n"
        f"loss_decode = {pprint.pformat(loss, width=100, sort_dicts=False)}\n"
        f"model = with_loss(_base_.model, loss_decode, {len(weights)})\n"
    )


def with_loss(model: Mapping[str, Any], loss: dict[str, Any], classes: int) -> dict[str, Any]:
    """Return what a config must change in a model, so that a loss replaces cross-entropy in its heads.

    model    `model` of the base config; `decode_head` and `auxiliary_head` are one head or, as in cascades, a
             list of heads
    loss     replaces `CrossEntropyLoss` and `OhemCrossEntropy` in `loss_decode`, with their `loss_weight`.
             Other losses in a list stay
    classes  number of classes. Heads with another `num_classes`, and heads with a sigmoid in their losses,
             are not changed: they predict edges or masks, as in STDC and SAN

    Raises `InvalidParameter` if there is nothing to replace in `decode_head`.
    """
    changes: dict[str, Any] = {}
    for name in ("decode_head", "auxiliary_head"):
        heads = model.get(name) or []
        if isinstance(heads, list | tuple):
            # In a config, a list replaces the list of the base config.
            changes[name] = [{**head, **_replaced(head, loss, classes)} for head in heads]
        else:
            changes[name] = {**heads, **_replaced(heads, loss, classes), "_delete_": True}
        if name == "decode_head" and loss["type"] not in str(changes):
            numbers = {head.get("num_classes") for head in _listed(heads)}
            raise InvalidParameter(
                (
                    "decode_head",
                    f"has no cross-entropy of {classes} classes (num_classes is {numbers}). Set num_classes "
                    "in the base config. A head that computes its own loss, such as Mask2Former's, is not "
                    "supported",
                )
            )
    return {name: heads for name, heads in changes.items() if heads}


def _replaced(head: Mapping[str, Any], loss: dict[str, Any], classes: int) -> dict[str, Any]:
    """Return the `loss_decode` of a head with the loss in it, or nothing if the head stays as it is."""
    old = head.get("loss_decode")
    losses = _listed(old or [])
    if head.get("num_classes") != classes or any(each.get("use_sigmoid") for each in losses):
        return {}
    new = [
        {**loss, "loss_weight": each.get("loss_weight", 1.0)} if each["type"] in _REPLACED else each
        for each in losses
    ]
    return {"loss_decode": new if isinstance(old, list | tuple) else new[0]} if new else {}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
