"""The sums over pixels from which every loss is computed, and their gradient.

With p the softmax over classes, summed over the valid pixels (targets that are not ignored)::

    nll[n, c]      Σ −ln p_c  over the pixels of class c; with `gamma`, Σ −(1 − p_c)^γ_c·ln p_c
    overlap[n, c]  Σ p_c      over the pixels of class c
    mass[n, c]     Σ p_c      over all valid pixels; Σ p_c² with `square`
    spread[n, c]   Σ −ln p_c  over all valid pixels with `smoothing`, and else 0
    pixels[n, c]   number of pixels of class c

All losses are functions of these [N, C] arrays, so every operation on a tensor of the logits' size is in
this module. The backward pass has a closed form. With g, b, a and h the gradients with respect to nll,
overlap, mass and spread, the gradient at a pixel of class t is ::

    ∂/∂x_c = p_c·(a_c + g_t + Σ_k h_k − q) − h_c + [c = t]·(b_t·p_t − g_t),    q = Σ_k a_k·p_k + b_t·p_t

where `square` replaces a_c by 2·a_c·p_c, and `gamma` replaces g_t by g_t·m, see `focal_slope`. It recomputes
p from the logits and one saved number per pixel, ln Σ exp x. Forward and backward pass therefore allocate
only one tensor of the logits' size, the gradient. Every temporary tensor has the size of a block of pixels,
which fits the CPU cache.

`softmax` and `sigmoid` compute both passes for a block of pixels. Logits of one channel are those of C = 2
classes, see `sigmoid`.

The functions are custom operators, which `torch.compile` does not trace: it neither unrolls the loop over
blocks nor breaks the graph at the check of targets. Their backward pass has no derivative; autograd raises.
`plain_sums` has the form for `torch.func` and forward-mode derivatives.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence  # noqa: TC003  the operators' schema is read from the annotations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter
from statsvc.losses.sigmoid import sigmoid_gradient, sigmoid_sums
from statsvc.losses.softmax import softmax_gradient, softmax_sums

if TYPE_CHECKING:
    from collections.abc import Iterator

    Block = tuple[slice, slice]

CPU_BLOCK = 1 << 20
"""Elements of a block on the CPU: 4 MiB of float32, which fits the cache."""
DEVICE_BLOCK = 1 << 23
"""Elements of a block on other devices, where few kernel launches matter more than memory."""
MASK_VALUE = 255
"""The foreground of a mask in an image file, where the background is 0."""
NAMED_TARGETS = 5
"""How many invalid target values an error message lists."""


@torch.library.custom_op("statsvc::class_sums", mutates_args=())
def class_sums(
    logits: Tensor,
    target: Tensor,
    offset: Tensor | None,
    gamma: Tensor | None,
    ignored_ids: Sequence[int],
    square: bool,
    smoothing: bool,
    check: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (nll, overlap, mass, spread, pixels, log_sum, ends).

    logits       floating point [N, C, *spatial], or [N, 1, *spatial] for C = 2
    target       integer [N, *spatial]
    offset       [C], added to the logits of every pixel, or None; it gets no gradient
    gamma        [] or [C], at least 0, or None for 0; it gets no gradient
    ignored_ids  targets of ignored pixels
    square       whether mass is Σ p_c² instead of Σ p_c
    smoothing    whether to compute spread
    check        whether to raise for invalid targets

    nll, overlap, mass and spread are [N, C], float64 for float64 logits and else float32. pixels is int64
    [N, C]. log_sum [N, pixels] is ln Σ exp x for the backward pass, and +inf at ignored pixels, where it
    makes p 0; it is empty for one channel. ends, int64 [2], are the lowest and the highest target, ignored
    pixels excluded.

    With `check`, raises `InvalidParameter` for targets that are neither ignored nor in 0 … C−1, naming their
    values. Without, they count as the nearest class, and the caller must call `check_targets`.
    """
    flat, labels = logits.flatten(2), target.flatten(1)
    samples, classes = len(flat), class_count(logits)
    dtype = sum_dtype(logits)
    nll, overlap, mass, spread = (flat.new_zeros((samples, classes), dtype=dtype) for _ in range(4))
    pixels = flat.new_zeros((samples, classes), dtype=torch.int64)
    log_sum = flat.new_empty(_log_sum_shape(logits), dtype=dtype)
    extremes: list[Tensor] = []
    for at, span in _blocks(flat):
        x, (label, ignored) = flat[at, :, span], _labels(labels[at, span], ignored_ids)
        extremes += label.aminmax()
        label.clamp_(0, classes - 1)
        block: Sequence[Tensor]
        if flat.shape[1] == 1:
            x = _one_channel(x, offset, dtype)
            block = sigmoid_sums(x, label[:, 0], ignored[:, 0], gamma, square, smoothing)
        else:
            x = x if offset is None else x + offset[:, None]
            block_log_sum, *block = softmax_sums(x, label, ignored, gamma, square, smoothing, dtype)
            log_sum[at, span] = block_log_sum
        for total, part in zip((nll, overlap, mass, spread, pixels), block, strict=True):
            total[at] += part
    ends = torch.stack(torch.stack(extremes).aminmax()) if extremes else pixels.new_zeros(2)
    if check:
        # The only transfer from the device in a call, after every kernel has been launched.
        check_targets(target, ends, ignored_ids, classes)
    return nll, overlap, mass, spread, pixels, log_sum, ends


@torch.library.custom_op("statsvc::class_sums_gradient", mutates_args=())
def class_sums_gradient(
    logits: Tensor,
    target: Tensor,
    offset: Tensor | None,
    gamma: Tensor | None,
    log_sum: Tensor,
    nll_gradient: Tensor,
    overlap_gradient: Tensor,
    mass_gradient: Tensor,
    spread_gradient: Tensor | None,
    ignored_ids: Sequence[int],
    square: bool,
) -> Tensor:
    """Return the gradient with respect to the logits, of their shape and dtype.

    The module's docstring has the formula. The other arguments are those and the results of `class_sums`;
    nll_gradient, overlap_gradient, mass_gradient and spread_gradient are g, b, a and h, [N, C]; h is None
    without `smoothing`.
    """
    flat, labels = logits.flatten(2), target.flatten(1)
    gradient = torch.empty_like(flat)
    for at, span in _blocks(flat):
        x, (label, ignored) = flat[at, :, span], _labels(labels[at, span], ignored_ids)
        h = None if spread_gradient is None else spread_gradient[at]
        gradients = (nll_gradient[at], overlap_gradient[at], mass_gradient[at], h)
        out = gradient[at, :, span]
        if flat.shape[1] == 1:
            x = _one_channel(x, offset, log_sum.dtype)
            out[:, 0] = sigmoid_gradient(x, label[:, 0], ignored[:, 0], gamma, gradients, square)
        else:
            x = x if offset is None else x + offset[:, None]
            softmax_gradient(x, label, ignored, gamma, log_sum[at, None, span], gradients, square, out)
    return gradient.view(logits.shape)


def class_count(logits: Tensor) -> int:
    """Return C: the number of channels, or 2 for one channel."""
    return 2 if logits.shape[1] == 1 else logits.shape[1]


def sum_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype of the sums: float64 for float64 logits and else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _blocks(flat: Tensor) -> Iterator[Block]:
    """Yield slices (samples, pixels) of each block: part of one sample's pixels, or whole samples."""
    samples, _, size = flat.shape
    # A pixel of one channel needs temporary numbers like one of eight classes.
    numbers = 8 if flat.shape[1] == 1 else flat.shape[1]
    limit = (CPU_BLOCK if flat.device.type == "cpu" else DEVICE_BLOCK) // numbers
    step = min(max(limit, 1), max(size, 1))
    whole_samples = max(limit // max(size, 1), 1)
    for sample in range(0, samples, whole_samples):
        for start in range(0, size, step):
            yield slice(sample, sample + whole_samples), slice(start, start + step)


def _one_channel(block: Tensor, offset: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the logits of class 1, [n, k], less those of class 0."""
    x = block[:, 0].to(dtype)
    return x if offset is None else x + offset.to(dtype).diff()


def _log_sum_shape(logits: Tensor) -> tuple[int, int]:
    return (len(logits), 0 if logits.shape[1] == 1 else math.prod(logits.shape[2:]))


def _labels(block: Tensor, ignored_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return int64 labels, with 0 at ignored pixels, and a bool mask of ignored pixels, both [n, 1, k]."""
    label = block[:, None].to(torch.int64)  # before the comparison: −100 equals 156 as uint8
    ignored = is_one_of(label, ignored_ids)
    return label.masked_fill(ignored, 0), ignored


def is_one_of(label: Tensor, ids: Sequence[int]) -> Tensor:
    """Return a bool mask of the labels that are one of the ids."""
    masks = [label == class_id for class_id in ids]
    return functools.reduce(torch.bitwise_or, masks) if masks else torch.zeros_like(label, dtype=torch.bool)


def check_targets(target: Tensor, ends: Tensor, ignored_ids: Sequence[int], classes: int) -> None:
    """Raise `InvalidParameter` naming the targets outside 0 … C−1.

    Warns if the foreground of a mask seems to be ignored.

    ends  the lowest and the highest target, int64 [2], ignored pixels excluded
    """
    lowest, highest = ends.tolist()
    if lowest >= 0 and highest < classes:
        if classes == 2 and highest == 0 and MASK_VALUE in ignored_ids:
            _warn_if_foreground_is_ignored(target.to(torch.int64))
        return
    label = target.to(torch.int64)
    outside = label[~is_one_of(label, ignored_ids) & ((label < 0) | (label >= classes))]
    ids, pixels = np.unique(outside.cpu().numpy(), return_counts=True)
    first = zip(ids[:NAMED_TARGETS], pixels[:NAMED_TARGETS], strict=True)
    listed = ", ".join(f"{value} ({plural(int(count), 'pixel')})" for value, count in first)
    more = ", …" if len(ids) > NAMED_TARGETS else ""
    ending = "s" if len(ignored_ids) > 1 else ""
    ignorable = f" or the ignored id{ending} {', '.join(map(str, ignored_ids))}" if ignored_ids else ""
    raise InvalidParameter(
        (
            "target",
            f"contains {listed}{more}; expected class ids 0 … {classes - 1}{ignorable}. Map the labels to "
            "class ids, or set ignore_index",
        )
    )


def _warn_if_foreground_is_ignored(label: Tensor) -> None:
    """Warn about a mask of 0 and 255, in which the ignored id 255 is the foreground."""
    if bool((label == 0).any()) and bool((label == MASK_VALUE).any()):
        warnings.warn(
            f"the target has the values 0 and {MASK_VALUE} and no pixel of class 1, and {MASK_VALUE} is "
            f"ignored. If {MASK_VALUE} is the foreground of a mask, no loss is computed there: give "
            f"target // {MASK_VALUE}. If it marks invalid pixels, the target is as it should be",
            UserWarning,
            stacklevel=2,
        )


@class_sums.register_fake
def _(logits: Tensor, *_: Any) -> tuple[Tensor, ...]:
    shape, dtype = (len(logits), class_count(logits)), sum_dtype(logits)
    sums = [logits.new_empty(shape, dtype=dtype) for _ in range(4)]
    pixels = logits.new_empty(shape, dtype=torch.int64)
    log_sum = logits.new_empty(_log_sum_shape(logits), dtype=dtype)
    return *sums, pixels, log_sum, pixels.new_empty(2)


@class_sums_gradient.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits.flatten(2)).view(logits.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, offset, gamma, ctx.ignored_ids, ctx.square, ctx.smoothing, _ = inputs
    *_, pixels, log_sum, ends = output
    ctx.save_for_backward(logits, target, offset, gamma, log_sum)
    ctx.mark_non_differentiable(pixels, log_sum, ends)


def _backward(
    ctx: Any, nll: Tensor, overlap: Tensor, mass: Tensor, spread: Tensor, *_: Any
) -> tuple[Tensor | None, ...]:
    gradient = class_sums_gradient(
        *ctx.saved_tensors, nll, overlap, mass, spread if ctx.smoothing else None, ctx.ignored_ids, ctx.square
    )
    return gradient, *[None] * 7


class_sums.register_autograd(_backward, setup_context=_save_for_backward)
