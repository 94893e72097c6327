"""The losses a trainer makes: Dice, and its sum with cross-entropy."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from statsvc.errors import InvalidParameter
from statsvc.losses.class_sums import class_sums
from statsvc.losses.processes import several_processes, sum_over_processes
from statsvc.losses.terms import Sums, cross_entropy, dice
from statsvc.losses.weighting import difference, named, packed, provenance_of, unpacked, vector_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from statsvc.losses.weighting import AnyWeights, Kind


class _ClassLoss(nn.Module):
    """What both losses share: their options, the weights and where these come from."""

    weight: Tensor | None
    offset: Tensor | None

    def __init__(
        self,
        *,
        smooth: float = 1.0,
        ignore_index: int = 255,
        class_weights: AnyWeights = None,
        square_denominator: bool = False,
        batch_dice: bool = False,
        include_background: bool = True,
        absent: Literal["skip", "penalise"] = "skip",
        kind: Kind = "weights",
    ) -> None:
        super().__init__()
        if absent not in ("skip", "penalise"):
            raise InvalidParameter(("absent", f"{absent!r} is neither 'skip' nor 'penalise'"))
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise InvalidParameter(
                ("ignore_index", f"{ignore_index!r} is no id; give one integer, such as −100 to ignore none")
            )
        self.smooth = _at_least_0("smooth", smooth)
        self.ignore_index = ignore_index
        self.square_denominator = square_denominator
        self.batch_dice = batch_dice
        self.include_background = include_background
        self.absent = absent
        vector = vector_of(class_weights, kind)
        # Not persistent: a checkpoint that brought its weights back would hide which ones were asked for.
        self.register_buffer("weight", vector if kind == "weights" else None, persistent=False)
        self.register_buffer("offset", vector if kind == "additive" else None, persistent=False)
        self.provenance = provenance_of(class_weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the weights with the model, but leave them float32: `model.half()` would round them."""
        kept = {name: vector for name, vector in self._buffers.items() if vector is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, vector in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            if moved.dtype != vector.dtype:
                self._buffers[name] = vector.to(moved.device)
        return self

    def _sums(self, logits: Tensor, target: Tensor) -> Sums:
        _check_shapes(logits, target, self.weight if self.offset is None else self.offset)
        offset = None if self.offset is None else self.offset.to(logits.device)
        # Without gradients nobody is waited for, so that one process can validate alone.
        training = torch.is_grad_enabled() and logits.requires_grad
        together = self.batch_dice and training and several_processes()
        nll, overlap, mass, pixels, _, ends = class_sums(
            logits, target, offset, self.ignore_index, self.square_denominator, not together
        )
        sums = Sums(nll, overlap, mass, pixels.to(mass.dtype))
        if not self.batch_dice:
            return sums
        total = sums.of_the_batch()
        if together:
            total = sum_over_processes(total, target, ends, self.ignore_index)
        return Sums(*total.unbind())

    def _class_weight(self, sums: Sums) -> Tensor:
        """Return a weight for each class, [C]."""
        return sums.mass.new_ones(sums.mass.shape[1]) if self.weight is None else self.weight.to(sums.mass)

    def _dice(self, sums: Sums, weight: Tensor) -> Tensor:
        ids = torch.arange(len(weight), device=weight.device)
        takes_part = ids != self.ignore_index
        if not self.include_background:
            takes_part &= ids != 0
        return dice(sums, weight * takes_part, self.smooth, skip_absent=self.absent == "skip")

    def get_extra_state(self) -> Tensor:
        """Return the provenance of the weights for a checkpoint, as JSON in a uint8 tensor."""
        return packed(self.provenance)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare a checkpoint's provenance with this loss's weights, which stay; warn if it differs."""
        then = unpacked(state)
        changed = "" if then is None else difference(then, self.provenance)
        if changed:
            warnings.warn(
                f"the checkpoint was trained with other class weights: {changed}. To go on with the same, "
                "ask for that version and spec; this loss keeps its own",
                UserWarning,
                stacklevel=2,
            )

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing_keys: list[str], *lists: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing_keys, *lists)
        # A strict load also takes checkpoints of before this loss was part of the model.
        missing_keys[:] = [key for key in missing_keys if key != f"{prefix}_extra_state"]

    def extra_repr(self) -> str:
        """Return the options, for `print(model)`."""
        names = ("smooth", "ignore_index", "square_denominator", "batch_dice", "include_background", "absent")
        options = [f"{name}={getattr(self, name)!r}" for name in names]
        if self.offset is not None:
            options.append("kind='additive'")
        if self.provenance is not None:
            options.append(f"class_weights={named(self.provenance)}")
        return ", ".join(options)


class DiceLoss(_ClassLoss):
    """Dice loss of a softmax over classes, in 2-D or 3-D.

    ::

        D_c  = (2·Σ p_c·y_c + smooth) / (Σ p_c + Σ y_c + smooth)       over valid pixels
        loss = Σ w_c·(1 − D_c) / Σ w_c                                 over the classes that take part

    smooth              added above and below, at least 0
    ignore_index        the target of pixels that count nowhere: they give no loss and no gradient, whatever
                        their logits are, inf and NaN included. If it is a class id, that class takes no part
    class_weights       one number for each class, at least 0: a tensor, array, list or `ClassWeights`
    square_denominator  Σ p² + Σ y² below (V-Net, Milletari et al. 2016). Not to be switched during a run:
                        the losses before and after do not compare
    batch_dice          False: the loss of each sample, then the mean over samples that have a valid pixel.
                        True: sums over the batch first; in distributed training over the batches of all
                        processes, so that the loss and, with DistributedDataParallel, the gradient are those
                        of the joined batch. Then the forward and the backward pass of all processes meet;
                        without gradients (`torch.no_grad()`) none waits for another. A target that is
                        refused on one process is on all, naming its rank
    include_background  False: class 0 takes no part
    absent              a class without a pixel in the sample (or batch): 'skip' it, or 'penalise' whatever is
                        predicted of it, as MONAI does
    kind                'weights', or 'additive': `class_weights` (of `logit_adjustment`) are added to the
                        logits, in training only; predictions take the logits as they are (Menon et al. 2021)

    `loss(logits, target)` takes floating-point logits [N, C, *spatial] and an integer target [N, *spatial]
    and returns a scalar: float64 for float64 logits, else float32, in which half-precision logits are summed
    too. Where nothing is valid or all weights are 0, it is 0 and its gradient 0. Raises `InvalidParameter`
    for shapes that do not fit, and naming the value for a target that is no class and not ignored; on a GPU
    that check waits for the device once a call.

    The weights are a buffer that moves with the model, stays float32 and stays out of checkpoints; where
    they come from (`provenance`) goes in, and loading it into a loss with other weights warns. There is no
    second derivative.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        sums = self._sums(logits, target)
        return self._dice(sums, self._class_weight(sums))


class CombinedLoss(_ClassLoss):
    """`ce_weight` · cross-entropy + `dice_weight` · Dice, in 2-D or 3-D.

    Cross-entropy is Torch's, Σ w·ℓ / Σ w over valid pixels of all classes, with the same weights; everything
    else is as in `DiceLoss`. With `batch_dice` in distributed training, both terms are those of the joined
    batch.

    `last` holds the terms of the last call, detached: "ce", "dice" and "loss".
    """

    def __init__(
        self,
        *,
        ce_weight: float = 0.6,
        dice_weight: float = 0.4,
        smooth: float = 1.0,
        ignore_index: int = 255,
        class_weights: AnyWeights = None,
        square_denominator: bool = False,
        batch_dice: bool = False,
        include_background: bool = True,
        absent: Literal["skip", "penalise"] = "skip",
        kind: Kind = "weights",
    ) -> None:
        super().__init__(
            smooth=smooth,
            ignore_index=ignore_index,
            class_weights=class_weights,
            square_denominator=square_denominator,
            batch_dice=batch_dice,
            include_background=include_background,
            absent=absent,
            kind=kind,
        )
        self.ce_weight = _at_least_0("ce_weight", ce_weight)
        self.dice_weight = _at_least_0("dice_weight", dice_weight)
        if self.ce_weight == self.dice_weight == 0:
            raise InvalidParameter(
                ("ce_weight", "is 0, and dice_weight too: the loss would be 0; give one of them more")
            )
        self.last: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        sums = self._sums(logits, target)
        weight = self._class_weight(sums)
        ce, overlap = cross_entropy(sums, weight), self._dice(sums, weight)
        loss = self.ce_weight * ce + self.dice_weight * overlap
        self.last = {"ce": ce.detach(), "dice": overlap.detach(), "loss": loss.detach()}
        return loss

    def extra_repr(self) -> str:
        """Return the options, for `print(model)`."""
        return f"ce_weight={self.ce_weight}, dice_weight={self.dice_weight}, {super().extra_repr()}"


def _at_least_0(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidParameter((name, f"{value!r} is no finite number of at least 0"))
    return float(value)


def _check_shapes(logits: Tensor, target: Tensor, vector: Tensor | None) -> None:
    shape, labels = list(logits.shape), list(target.shape)
    if logits.ndim < 3 or not logits.is_floating_point():
        raise InvalidParameter(
            ("logits", f"are {logits.dtype} of shape {shape}; give floating point [N, C, *spatial]")
        )
    if target.dtype == torch.bool or target.is_floating_point() or target.is_complex():
        raise InvalidParameter(
            ("target", f"is {target.dtype}; give class ids, integers such as target.long()")
        )
    if labels != [shape[0], *shape[2:]]:
        hint = "; target.squeeze(1) has it" if labels == [shape[0], 1, *shape[2:]] else ""
        raise InvalidParameter(
            (
                "target",
                f"has shape {labels}, but logits of shape {shape} need {[shape[0], *shape[2:]]}{hint}",
            )
        )
    if shape[1] < 2:
        raise InvalidParameter(
            (
                "logits",
                "have one class, and a softmax over one is always 1: give two, or use BCEWithLogitsLoss",
            )
        )
    if vector is not None and len(vector) != shape[1]:
        raise InvalidParameter(
            (
                "class_weights",
                f"has {len(vector)} numbers, but the logits {shape[1]} classes (shape {shape}); give one for "
                f"each class, absent ones too: num_classes={shape[1]}",
            )
        )
