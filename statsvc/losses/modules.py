"""The loss modules: Dice and Tversky loss, and the weighted sum of Dice and cross-entropy."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from statsvc.common.plain_values import plain
from statsvc.errors import InvalidParameter
from statsvc.losses.class_sums import class_sums
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


RECORD = "provenance_record"
"""Name of the buffer with the provenance of the weights, and of its entry in checkpoints."""

Constructor = TypeVar("Constructor", bound="Callable[..., None]")


class _ClassLoss(nn.Module):
    """Base of the losses: their common options, the weights and the provenance of the weights."""

    weight: Tensor | None
    offset: Tensor | None
    provenance_record: Tensor

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
            raise InvalidParameter(("absent", f"must be 'skip' or 'penalise', not {absent!r}"))
        ignore_index = plain(ignore_index)
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise InvalidParameter(
                (
                    "ignore_index",
                    f"must be an integer, not {ignore_index!r}; give one that no label has, such as -100, to "
                    "ignore nothing",
                )
            )
        self.smooth = _non_negative("smooth", smooth)
        self.ignore_index = ignore_index
        self.square_denominator = square_denominator
        self.batch_dice = batch_dice
        self.include_background = include_background
        self.absent = absent
        vector = vector_of(class_weights, kind)
        # Not persistent: loading a checkpoint must not replace the weights that the script asked for.
        self.register_buffer("weight", vector if kind == "weights" else None, persistent=False)
        self.register_buffer("offset", vector if kind == "additive" else None, persistent=False)
        self._record = record_of(class_weights, vector)
        self.register_buffer(RECORD, packed(self._record))

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
        _check_tensors(logits, target)
        _check_shapes(logits, target, self.weight if self.offset is None else self.offset)
        offset = None if self.offset is None else self.offset.to(logits.device)
        # No collective without gradients, so that a single process can validate.
        training = torch.is_grad_enabled() and logits.requires_grad
        across_processes = self.batch_dice and training and several_processes()
        plain = requires_plain_sums(logits)
        if plain:
            if self.batch_dice and several_processes():
                raise InvalidParameter(
                    (
                        "batch_dice",
                        "does not support torch.func and forward-mode derivatives in distributed training; "
                        "use backward(), or batch_dice=False",
                    )
                )
            nll, overlap, mass, pixels = plain_sums(
                logits, target, offset, self.ignore_index, self.square_denominator
            )
        else:
            nll, overlap, mass, pixels, _, ends = class_sums(
                logits, target, offset, self.ignore_index, self.square_denominator, not across_processes
            )
        sums = Sums(nll, overlap, mass, pixels.to(mass.dtype))
        if not self.batch_dice:
            return sums
        total = sums.of_the_batch()
        if across_processes:
            total = sum_over_processes(total, target, ends, self.ignore_index)
        return Sums(*total.unbind())

    def _class_weight(self, sums: Sums) -> Tensor:
        """Return the class weights, [C], of the dtype of the sums; ones without weights."""
        return sums.mass.new_ones(sums.mass.shape[1]) if self.weight is None else self.weight.to(sums.mass)

    def _dice(self, sums: Sums, weight: Tensor, **tversky: Any) -> Tensor:
        ids = torch.arange(len(weight), device=weight.device)
        included = ids != self.ignore_index
        if not self.include_background:
            included &= ids != 0
        return dice(sums, weight * included, self.smooth, skip_absent=self.absent == "skip", **tversky)

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
        """Return the options, for `print(model)`."""
        names = ("smooth", "ignore_index", "square_denominator", "batch_dice", "include_background", "absent")
        options = [f"{name}={getattr(self, name)!r}" for name in names]
        if self.offset is not None:
            options.append("kind='additive'")
        if self._record is not None:
            options.append(f"class_weights={describe(self._record)}")
        return ", ".join(options)


def _with_common_options(init: Constructor) -> Constructor:
    """Replace `**options` in the signature of a subclass's constructor by the options of `_ClassLoss`."""
    signature = inspect.signature(init)
    own = [option for option in signature.parameters.values() if option.kind is not option.VAR_KEYWORD]
    common = list(inspect.signature(_ClassLoss.__init__).parameters.values())[1:]
    init.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
    return init


class DiceLoss(_ClassLoss):
    """Dice loss of a softmax over classes, in 2-D or 3-D.

    ::

        D_c  = (2·Σ p_c·y_c + smooth) / (Σ p_c + Σ y_c + smooth)       summed over the valid pixels
        loss = Σ w_c·(1 − D_c) / Σ w_c                                 summed over the included classes

    Here p is the softmax of the logits, y the one-hot target and w the class weights.

    smooth              smoothing term of numerator and denominator, at least 0
    ignore_index        the target value of invalid pixels. They contribute neither loss nor gradient, even if
                        their logits are inf or NaN. If it is a class id, that class is excluded
    class_weights       one number of at least 0 for each class: a tensor, array, list or `ClassWeights`
    square_denominator  use Σ p² + Σ y² in the denominator (V-Net, Milletari et al. 2016). Do not change it
                        during a run: losses before and after are not comparable
    batch_dice          False: compute the loss of each sample, and average over the samples that have a valid
                        pixel. True: sum over the batch first, in distributed training over the batches of all
                        processes, so that the loss and, with DistributedDataParallel, the gradient are those
                        of the joined batch. Forward and backward pass are then collectives, except without
                        gradients (`torch.no_grad()`). An invalid target on one process raises on all of them
    include_background  False: exclude class 0
    absent              what happens to a class without a pixel in the sample (or batch): 'skip' excludes it,
                        'penalise' counts every prediction of it as an error, as MONAI does
    kind                'weights', or 'additive': add `class_weights` (of `logit_adjustment`) to the logits,
                        during training only. Predictions use the unchanged logits (Menon et al. 2021)

    `loss(logits, target)` takes floating-point logits [N, C, *spatial] and an integer target [N, *spatial].
    It returns a scalar, float64 for float64 logits and else float32; half-precision logits are summed in
    float32. Without valid pixels, or if all weights are 0, loss and gradient are 0. NaN in the logits of a
    valid pixel makes the loss NaN. `torch.func` and forward-mode derivatives of any order are available; they
    take more memory than `backward()`, which has no second derivative.

    The constructor raises `InvalidParameter` for an option out of range. A call raises `InvalidParameter` for
    shapes that do not match, and for a target that is neither a class id nor ignored, naming its value; on a
    GPU, that check waits for the device once per call.

    The weights are a buffer that moves with the model, stays float32 and is not saved in checkpoints. Their
    provenance (dataset, version, method, spec) and a digest are saved, and loading these into a loss with
    other weights warns. Tensors that `statsvc.class_weights` returned have a provenance, too.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        sums = self._sums(logits, target)
        return self._dice(sums, self._class_weight(sums))


class TverskyLoss(_ClassLoss):
    """Tversky and focal Tversky loss (Salehi et al. 2017; Abraham and Khan 2019), in 2-D or 3-D.

    ::

        T_c  = (2·TP + smooth) / (2·TP + 2α_c·FP + 2β_c·FN + smooth)
        loss = Σ w_c·(1 − T_c)^γ / Σ w_c                               summed over the included classes

    TP = Σ p_c·y_c, FP = Σ p_c·(1 − y_c) and FN = Σ (1 − p_c)·y_c are sums over the valid pixels.

    alpha    factor of false positives, at least 0: a number, or one for each class
    beta     factor of false negatives, likewise. A larger beta than alpha favors recall
    gamma    exponent, above 0. Above 1 it gives classes that are segmented badly more influence
    options  all options of `DiceLoss`, with the same defaults, except `square_denominator`

    With alpha = beta = 0.5 and gamma = 1 it is `DiceLoss`. Other definitions use half of `smooth`, and an
    exponent of 1/γ for the γ of Abraham and Khan. The rest is as in `DiceLoss`.

    Raises `InvalidParameter` as `DiceLoss` does.
    """

    alpha: Tensor
    beta: Tensor

    @_with_common_options
    def __init__(
        self,
        *,
        alpha: float | Sequence[float] | Tensor = 0.3,
        beta: float | Sequence[float] | Tensor = 0.7,
        gamma: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if self.square_denominator:
            raise InvalidParameter(("square_denominator", "is not defined for TverskyLoss; use DiceLoss"))
        for name, value in (("alpha", alpha), ("beta", beta)):
            self.register_buffer(name, _factors(name, value), persistent=False)
        self.gamma = _non_negative("gamma", gamma)
        if self.gamma == 0:
            raise InvalidParameter(("gamma", "is 0, so the loss would be constant; give a number above 0"))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        sums = self._sums(logits, target)
        weight = self._class_weight(sums)
        alpha, beta = (self._of_each_class(name, sums.mass) for name in ("alpha", "beta"))
        return self._dice(sums, weight, alpha=alpha, beta=beta, gamma=self.gamma)

    def _of_each_class(self, name: str, mass: Tensor) -> Tensor:
        factors = self._buffers[name]
        assert factors is not None
        if factors.ndim and len(factors) != mass.shape[1]:
            raise InvalidParameter(
                (name, f"has {len(factors)} numbers, but the logits have {mass.shape[1]} classes")
            )
        return factors.to(mass)

    def extra_repr(self) -> str:
        """Return the options, for `print(model)`."""
        factors = f"alpha={self.alpha.tolist()}, beta={self.beta.tolist()}, gamma={self.gamma}"
        return f"{factors}, {super().extra_repr()}"


class CombinedLoss(_ClassLoss):
    """`ce_weight` · cross-entropy + `dice_weight` · Dice loss, in 2-D or 3-D.

    ce_weight    factor of cross-entropy, at least 0
    dice_weight  factor of the Dice loss, at least 0
    options      all options of `DiceLoss`, with the same defaults

    Cross-entropy is Σ w·ℓ / Σ w over the valid pixels of all classes, as in `torch.nn.CrossEntropyLoss`, with
    the same class weights. The rest is as in `DiceLoss`. With `batch_dice` in distributed training, both
    terms are those of the joined batch.

    `last` has the detached terms of the last call: "ce", "dice" and "loss".

    Raises `InvalidParameter` as `DiceLoss` does, and if both factors are 0.
    """

    @_with_common_options
    def __init__(self, *, ce_weight: float = 0.6, dice_weight: float = 0.4, **options: Any) -> None:
        super().__init__(**options)
        self.ce_weight = _non_negative("ce_weight", ce_weight)
        self.dice_weight = _non_negative("dice_weight", dice_weight)
        if self.ce_weight == self.dice_weight == 0:
            raise InvalidParameter(
                ("ce_weight", "is 0 and so is dice_weight, so the loss would be 0; increase one of them")
            )
        self.last: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return self.with_shares(logits, target, 1, 1)

    def with_shares(self, logits: Tensor, target: Tensor, ce_share: float, dice_share: float) -> Tensor:
        """Return this batch's part of the loss of several batches, a scalar: the sum of these is a mean.

        ce_share    this batch's part of Σ w over the valid pixels of all batches
        dice_share  this batch's part of the samples with a valid pixel of all batches
        """
        sums = self._sums(logits, target)
        weight = self._class_weight(sums)
        ce, dice_loss = cross_entropy(sums, weight), self._dice(sums, weight)
        loss = torch.zeros_like(ce)
        for term, factor in ((ce, self.ce_weight * ce_share), (dice_loss, self.dice_weight * dice_share)):
            if factor > 0:
                # Unlike factor * term, this keeps the dtype of a forward-mode tangent.
                loss = torch.add(loss, term, alpha=factor)
        self.last = {"ce": detached(ce), "dice": detached(dice_loss), "loss": detached(loss)}
        return loss

    def extra_repr(self) -> str:
        """Return the options, for `print(model)`."""
        return f"ce_weight={self.ce_weight}, dice_weight={self.dice_weight}, {super().extra_repr()}"


def _non_negative(name: str, value: float) -> float:
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
        raise InvalidParameter((name, f"must be a finite number of at least 0, not {value!r}"))
    return float(number)


def _factors(name: str, value: Any) -> Tensor:
    """Return a number, or one for each class, as float32: [] or [C]. Raises `InvalidParameter`."""
    numbers = plain(value)
    if isinstance(numbers, list | tuple) and len(numbers):
        return torch.tensor([_non_negative(name, number) for number in numbers])
    return torch.tensor(_non_negative(name, numbers))


def _check_tensors(logits: Any, target: Any) -> None:
    """Raise `InvalidParameter` unless both are tensors, naming the logits in the output of a model."""
    for name, value in (("logits", logits), ("target", target)):
        if isinstance(value, Tensor):
            continue
        if isinstance(value, Mapping):
            advice = f"has the entries {', '.join(map(str, value))}; give one of them, such as output['out']"
            if "logits" in value:
                advice = "is the output of a model; give output.logits, resized to the size of the target"
        elif isinstance(value, list | tuple):
            shapes = ", ".join(str(list(getattr(item, "shape", []))) for item in value)
            advice = f"has {len(value)} items of shape {shapes}; give one of them, or add their losses"
        else:
            advice = "is not a tensor; use torch.as_tensor"
        raise InvalidParameter((name, f"{type(value).__name__} {advice}"))


def _check_shapes(logits: Tensor, target: Tensor, vector: Tensor | None) -> None:
    shape, labels = list(logits.shape), list(target.shape)
    if logits.ndim < 3 or not logits.is_floating_point():
        raise InvalidParameter(
            ("logits", f"are {logits.dtype} of shape {shape}; give floating-point [N, C, *spatial]")
        )
    if target.dtype == torch.bool or target.is_floating_point() or target.is_complex():
        raise InvalidParameter(
            ("target", f"is {target.dtype}; give integer class ids, for instance target.long()")
        )
    if labels != [shape[0], *shape[2:]]:
        hint = "; give target.squeeze(1)" if labels == [shape[0], 1, *shape[2:]] else ""
        raise InvalidParameter(
            (
                "target",
                f"has shape {labels}, but logits of shape {shape} require {[shape[0], *shape[2:]]}{hint}",
            )
        )
    if shape[1] < 2:
        raise InvalidParameter(
            (
                "logits",
                "have one class, so the softmax is always 1; give two classes or use BCEWithLogitsLoss",
            )
        )
    if vector is not None and len(vector) != shape[1]:
        raise InvalidParameter(
            (
                "class_weights",
                f"has {len(vector)} numbers, but the logits have {shape[1]} classes (shape {shape}); give "
                f"one number for each class, including absent ones (num_classes={shape[1]})",
            )
        )
