"""The loss module: the weighted sum of cross-entropy and Dice."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter
from statsvc.losses.arguments import (
    check_devices,
    check_shapes,
    factors,
    flag,
    ignored_ids,
    non_negative,
    positive,
    require_tensors,
)
from statsvc.losses.class_sums import class_count, class_sums, is_one_of
from statsvc.losses.plain_sums import detached, plain_sums, requires_plain_sums
from statsvc.losses.processes import several_processes, sum_over_processes
from statsvc.losses.terms import Sums, cross_entropy, dice
from statsvc.losses.weighting import (
    describe,
    difference,
    packed,
    record_of,
    unpacked,
    unpacked_json,
    vector_of,
)
from statsvc.weighting.origins import PROVENANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from statsvc.losses.weighting import AnyWeights, Kind

    Factors = float | Sequence[float] | Tensor


RECORD = "provenance_record"
"""Name of the buffer with the provenance of the weights, and of its entry in checkpoints."""


class CombinedLoss(nn.Module):
    """`ce_weight` · cross-entropy + `dice_weight` · Dice loss, in 1-D to 3-D, with class weights.

    ::

        CE   = Σ w_t·α_t·(1 − p_t)^γ_t·(−ln p_t) / Σ w_t          summed over the valid pixels, of class t
        D_c  = (2·TP + smooth) / (2·TP + 2·α_c·FP + 2·β_c·FN + smooth)
        Dice = Σ w_c·(1 − D_c)^γ / Σ w_c                          summed over the included classes

    Here p is the softmax of the logits, y the one-hot target and w the class weights, and TP = Σ p_c·y_c,
    FP = Σ p_c·(1 − y_c) and FN = Σ (1 − p_c)·y_c are sums over the valid pixels. By default, CE is that of
    `torch.nn.CrossEntropyLoss`, and D_c = (2·Σ p_c·y_c + smooth) / (Σ p_c + Σ y_c + smooth).

    ce_weight           factor of cross-entropy, at least 0
    dice_weight         factor of the Dice loss, at least 0
    smooth              smoothing term of numerator and denominator, at least 0
    ignore_index        the target value of invalid pixels, or several values. These pixels contribute neither
                        loss nor gradient, even if their logits are inf or NaN. An ignored class takes no part
                        in Dice
    class_weights       one number of at least 0 for each class: a tensor, array, list or `ClassWeights`
    square_denominator  use Σ p² + Σ y² in the denominator (V-Net, Milletari et al. 2016). Do not change it
                        during a run: losses before and after are not comparable
    batch_dice          False: compute the loss of each sample, and average over the samples that have a valid
                        pixel. True: sum over the batch first, in distributed training over the batches of all
                        processes, so that both terms and, with DistributedDataParallel, the gradient are
                        those of the joined batch. Forward and backward pass are then collectives, except
                        without gradients (`torch.no_grad()`). An invalid target on one process raises on all
    include_background  False: exclude class 0 from Dice
    absent              what happens in Dice to a class without a pixel in the sample (or batch): 'skip'
                        excludes it, 'penalise' counts every prediction of it as an error, as MONAI does
    kind                'weights', or 'additive': add `class_weights` (of `logit_adjustment`) to the logits,
                        during training only. Predictions use the unchanged logits (Menon et al. 2021)
    focal_gamma         γ of cross-entropy, at least 0: a number, or one for each class. Above 0 it is focal
                        loss (Lin et al. 2017)
    focal_alpha         α of cross-entropy, at least 0, likewise. Unlike a class weight it is not part of the
                        denominator
    label_smoothing     ε in 0 … 1, as in `torch.nn.CrossEntropyLoss`; not together with focal_gamma and
                        focal_alpha
    tversky_alpha       α of Dice, the factor of false positives, at least 0: a number, or one for each class
    tversky_beta        β of Dice, the factor of false negatives, likewise
    tversky_gamma       γ of Dice, above 0

    `loss(logits, target)` takes floating-point logits [N, C, *spatial] and an integer target [N, *spatial].
    Logits of one channel, [N, 1, *spatial], are those of a sigmoid: the target is 0 or 1, class weights have
    two numbers, and Dice is that of class 1.

    It returns a scalar, float64 for float64 logits and else float32; half-precision logits are summed in
    float32. Without valid pixels, or if all weights are 0, loss and gradient are 0. NaN in the logits of a
    valid pixel makes the loss NaN. `torch.func` and forward-mode derivatives of any order are available; they
    take more memory than `backward()`, which has no second derivative.

    `last` has the detached terms of the last call: "ce", "dice" and "loss", scalars, and "dice_per_class",
    [C]: 1 − D_c (to the power γ), averaged over the samples in which the class takes part, and NaN for a
    class that takes part in none.

    The constructor raises `InvalidParameter` for an option out of range, and if both factors are 0. A call
    raises `InvalidParameter` for shapes or devices that do not match, and for a target that is neither a
    class id nor ignored, naming its value; on a GPU, that check waits for the device once per call. A call
    warns if a target of two classes has only the values 0 and 255, and 255 is ignored: in a mask, 255 can be
    the foreground.

    The weights are a buffer that moves with the model, stays float32 and is not saved in checkpoints. Their
    provenance (dataset, version, method, spec) and a digest are saved, and loading these into a loss with
    other weights warns. Tensors that `statsvc.class_weights` returned have a provenance, too.
    """

    weight: Tensor | None
    offset: Tensor | None
    provenance_record: Tensor
    focal_gamma: Tensor
    _prefix = ""
    """What a class leaves out of the names of options."""

    def __init__(
        self,
        *,
        ce_weight: float = 0.6,
        dice_weight: float = 0.4,
        smooth: float = 1.0,
        ignore_index: int | Sequence[int] = 255,
        class_weights: AnyWeights = None,
        square_denominator: bool = False,
        batch_dice: bool = False,
        include_background: bool = True,
        absent: Literal["skip", "penalise"] = "skip",
        kind: Kind = "weights",
        focal_gamma: Factors = 0.0,
        focal_alpha: Factors = 1.0,
        label_smoothing: float = 0.0,
        tversky_alpha: Factors = 0.5,
        tversky_beta: Factors = 0.5,
        tversky_gamma: float = 1.0,
    ) -> None:
        super().__init__()
        self.ce_weight = non_negative("ce_weight", ce_weight)
        self.dice_weight = non_negative("dice_weight", dice_weight)
        if self.ce_weight == self.dice_weight == 0:
            raise InvalidParameter(
                ("ce_weight", "is 0 and so is dice_weight, so the loss would be 0; increase one of them")
            )
        if absent not in ("skip", "penalise"):
            raise InvalidParameter(("absent", f"must be 'skip' or 'penalise', not {absent!r}"))
        self.ignored_ids = ignored_ids(ignore_index)
        self.ignore_index = self.ignored_ids if len(self.ignored_ids) != 1 else self.ignored_ids[0]
        self.smooth = non_negative("smooth", smooth)
        self.square_denominator = flag("square_denominator", square_denominator)
        self.batch_dice = flag("batch_dice", batch_dice)
        self.include_background = flag("include_background", include_background)
        self.absent = absent
        vector = vector_of(class_weights, kind)
        # Not persistent: loading a checkpoint must not replace the weights that the script asked for.
        self.register_buffer("weight", vector if kind == "weights" else None, persistent=False)
        self.register_buffer("offset", vector if kind == "additive" else None, persistent=False)
        for name, value in (
            ("focal_gamma", focal_gamma),
            ("focal_alpha", focal_alpha),
            ("tversky_alpha", tversky_alpha),
            ("tversky_beta", tversky_beta),
        ):
            self.register_buffer(name, factors(name, value), persistent=False)
        self.label_smoothing = non_negative("label_smoothing", label_smoothing)
        self.tversky_gamma = positive("tversky_gamma", tversky_gamma)
        self._focal = bool(self.focal_gamma.any())
        self._check_terms()
        self._record = record_of(class_weights, vector)
        self.register_buffer(RECORD, packed(self._record))
        self.last: dict[str, Tensor] = {}

    def _check_terms(self) -> None:
        """Raise `InvalidParameter` for options that have no meaning together."""
        if self.label_smoothing > 1:
            raise InvalidParameter(("label_smoothing", f"must be at most 1, not {self.label_smoothing:g}"))
        if self.label_smoothing and (self._focal or self._differs("focal_alpha", 1)):
            raise InvalidParameter(
                (
                    "label_smoothing",
                    "is not defined for focal loss; set it, or gamma and alpha, to the default",
                )
            )
        if not (self._differs("tversky_alpha", 0) or self._differs("tversky_beta", 0)):
            raise InvalidParameter(
                (self._own("tversky_beta"), "is 0 and so is alpha, so Dice would be 0; increase one of them")
            )
        if self.square_denominator and (
            self._differs("tversky_alpha", 0.5) or self._differs("tversky_beta", 0.5)
        ):
            raise InvalidParameter(("square_denominator", "is not defined for Tversky loss; use Dice"))

    def _differs(self, name: str, value: float) -> bool:
        numbers = self._buffers[name]
        return numbers is not None and bool((numbers != value).any())

    def _own(self, name: str) -> str:
        """Return the name of an option of `CombinedLoss` in the constructor of this class."""
        return name.removeprefix(self._prefix)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return self.with_shares(logits, target, 1, 1)

    def with_shares(self, logits: Tensor, target: Tensor, ce_share: float, dice_share: float) -> Tensor:
        """Return this batch's part of the loss of several batches, a scalar: the sum of these is a mean.

        ce_share    this batch's part of Σ w over the valid pixels of all batches
        dice_share  this batch's part of the samples with a valid pixel of all batches
        """
        sums = self._sums(logits, target)
        ones = sums.mass.new_ones(sums.mass.shape[1])
        weight = ones if self.weight is None else self.weight.to(ones)
        ce = cross_entropy(
            sums, weight, self._of_each_class("focal_alpha", logits).to(ones), self.label_smoothing
        )
        ids = torch.arange(len(ones), device=ones.device)
        included = ~is_one_of(ids, self.ignored_ids)
        if not self.include_background or logits.shape[1] == 1:
            included &= ids > 0
        dice_loss, per_class = dice(
            sums,
            weight,
            included,
            self.smooth,
            self.absent == "skip",
            self._of_each_class("tversky_alpha", logits).to(ones),
            self._of_each_class("tversky_beta", logits).to(ones),
            self.tversky_gamma,
        )
        loss = torch.zeros_like(ce)
        for term, factor in ((ce, self.ce_weight * ce_share), (dice_loss, self.dice_weight * dice_share)):
            if factor > 0:
                # Unlike factor * term, this keeps the dtype of a forward-mode tangent.
                loss = torch.add(loss, term, alpha=factor)
        terms = {"ce": ce, "dice": dice_loss, "loss": loss, "dice_per_class": per_class}
        self.last = {name: detached(term) for name, term in terms.items()}
        return loss

    def _of_each_class(self, name: str, logits: Tensor) -> Tensor:
        """Return a number or one for each class, float32 [] or [C], on the device of the logits."""
        numbers = self._buffers[name]
        assert numbers is not None
        classes = class_count(logits)
        if numbers.ndim and len(numbers) != classes:
            raise InvalidParameter(
                (
                    self._own(name),
                    f"has {plural(len(numbers), 'number')}, but the logits have {classes} classes",
                )
            )
        return numbers.to(logits.device)

    def valid_pixels(self, target: Tensor) -> Tensor:
        """Return a bool mask of the pixels that are not ignored."""
        return ~is_one_of(target.to(torch.int64), self.ignored_ids)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the buffers with the model, but keep their dtypes: `model.half()` would round the weights."""
        originals = {name: vector for name, vector in self._buffers.items() if vector is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, vector in originals.items():
            moved = self._buffers[name]
            assert moved is not None
            if moved.dtype != vector.dtype:
                self._buffers[name] = vector.to(moved.device)
        return self

    def _sums(self, logits: Tensor, target: Tensor) -> Sums:
        require_tensors(logits, target)
        check_devices(logits, target)
        check_shapes(logits, target, self.weight if self.offset is None else self.offset)
        offset = None if self.offset is None else self.offset.to(logits.device)
        # No collective without gradients, so that a single process can validate.
        training = torch.is_grad_enabled() and logits.requires_grad
        across_processes = self.batch_dice and training and several_processes()
        gamma = self._of_each_class("focal_gamma", logits) if self._focal else None
        options = (offset, gamma, self.ignored_ids, self.square_denominator, bool(self.label_smoothing))
        if requires_plain_sums(logits):
            if self.batch_dice and several_processes():
                raise InvalidParameter(
                    (
                        "batch_dice",
                        "does not support torch.func and forward-mode derivatives in distributed training; "
                        "use backward(), or batch_dice=False",
                    )
                )
            *floats, pixels = plain_sums(logits, target, *options)
        else:
            *floats, pixels, _, ends = class_sums(logits, target, *options, not across_processes)
        sums = Sums(*[*floats, pixels.to(floats[0].dtype)])
        if not self.batch_dice:
            return sums
        total = sums.of_the_batch()
        if across_processes:
            total = sum_over_processes(total, target, ends, self.ignored_ids)
        return Sums(*total.unbind())

    @property
    def provenance(self) -> dict[str, Any] | None:
        """Dataset, version, method, kind, exact and spec of the weights; None for other numbers."""
        record = self._record or {}
        return {name: record[name] for name in PROVENANCE} if "dataset" in record else None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # A new tensor: some checkpoint tools load into the tensors of a state_dict.
        destination[prefix + RECORD] = packed(self._record).to(self.provenance_record.device)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing_keys: list[str], *lists: Any
    ) -> None:
        """Warn if a checkpoint was trained with other weights. The weights of this loss do not change.

        A strict load also accepts checkpoints from before the loss was part of the model.
        """
        keys = {prefix + RECORD: unpacked, f"{prefix}_extra_state": unpacked_json}
        rest = {key: value for key, value in state_dict.items() if key not in keys}
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing_keys, *lists)
        missing_keys[:] = [key for key in missing_keys if key not in keys]
        for key, unpack in keys.items():
            saved = unpack(state_dict[key]) if key in state_dict else None
            changes = "" if saved is None else difference(saved, self._record)
            if changes:
                warnings.warn(
                    f"the checkpoint was trained with other class weights: {changes}. This loss keeps its "
                    "own weights. To continue with the previous ones, request that version and spec",
                    UserWarning,
                    stacklevel=2,
                )

    def extra_repr(self) -> str:
        """Return the options that differ from the defaults, for `print(model)`."""
        options = []
        for name, option in inspect.signature(CombinedLoss).parameters.items():
            if name in ("ce_weight", "dice_weight") and type(self) is not CombinedLoss:
                continue
            value = getattr(self, name, option.default)
            if isinstance(value, Tensor):
                value = value.double().mul(1e6).round().div(1e6).tolist()
            if value != option.default:
                options.append(f"{self._own(name)}={value!r}")
        if self.offset is not None:
            options.append("kind='additive'")
        if self._record is not None:
            options.append(f"class_weights={describe(self._record)}")
        return ", ".join(options)
