"""The sums over pixels from which cross-entropy and Dice are computed, and their gradient.

With p the softmax over classes, summed over the valid pixels (target other than `ignore_index`)::

    nll[n, c]      Σ −ln p_c  over the pixels of class c
    overlap[n, c]  Σ p_c      over the pixels of class c
    mass[n, c]     Σ p_c      over all valid pixels; Σ p_c² with `square`
    pixels[n, c]   number of pixels of class c

Both losses are functions of these [N, C] arrays, so every operation on a tensor of the logits' size is in
this module. The backward pass has a closed form. With g, b and a the gradients with respect to nll, overlap
and mass, the gradient at a pixel of class t is ::

    ∂/∂x_c = p_c·(a_c + g_t − q) + [c = t]·(b_t·p_t − g_t),    q = Σ_k a_k·p_k + b_t·p_t

where `square` replaces a_c by 2·a_c·p_c. It recomputes p from the logits and one saved number per pixel,
ln Σ exp x. Forward and backward pass therefore allocate only one tensor of the logits' size, the gradient.
Every temporary tensor has the size of a block of pixels, which fits the CPU cache.

The functions are custom operators, which `torch.compile` does not trace: it neither unrolls the loop over
blocks nor breaks the graph at the check of targets. Their backward pass has no derivative; autograd raises.
`plain_sums` has the form for `torch.func` and forward-mode derivatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    Block = tuple[slice, slice]

CPU_BLOCK = 1 << 20
"""Elements of a block on the CPU: 4 MiB of float32, which fits the cache."""
DEVICE_BLOCK = 1 << 23
"""Elements of a block on other devices, where few kernel launches matter more than memory."""
NAMED_TARGETS = 5
"""How many invalid target values an error message lists."""


@torch.library.custom_op("statsvc::class_sums", mutates_args=())
def class_sums(
    logits: Tensor, target: Tensor, offset: Tensor | None, ignore_index: int, square: bool, check: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (nll, overlap, mass, pixels, log_sum, ends).

    logits  floating point [N, C, *spatial]
    target  integer [N, *spatial]
    offset  [C], added to the logits of every pixel, or None; it gets no gradient
    square  whether mass is Σ p_c² instead of Σ p_c
    check   whether to raise for invalid targets

    nll, overlap and mass are [N, C], float64 for float64 logits and else float32. pixels is int64 [N, C].
    log_sum [N, pixels] is ln Σ exp x for the backward pass, and +inf at ignored pixels, where it makes p 0.
    ends, int64 [2], are the lowest and the highest target, ignored pixels excluded.

    With `check`, raises `InvalidParameter` for targets that are neither `ignore_index` nor in 0 … C−1, naming
    their values. Without, they count as the nearest class, and the caller must call `check_targets`.
    """
    flat, labels = logits.flatten(2), target.flatten(1)
    samples, classes, _ = flat.shape
    dtype = sum_dtype(logits)
    nll, overlap, mass = (flat.new_zeros((samples, classes), dtype=dtype) for _ in range(3))
    pixels = flat.new_zeros((samples, classes), dtype=torch.int64)
    log_sum = flat.new_empty(labels.shape, dtype=dtype)
    extremes: list[Tensor] = []
    for at, span in _blocks(flat):
        x, (label, ignored) = flat[at, :, span], _labels(labels[at, span], ignore_index)
        extremes += label.aminmax()
        label.clamp_(0, classes - 1)
        if offset is not None:
            x = x + offset[:, None]
        top = x.amax(1, keepdim=True)
        if _needs_cleaning(ignored, top):
            x = x.masked_fill(ignored, 0)
            top = x.amax(1, keepdim=True)
        top = top.to(dtype)
        p = x - top
        of_label = p.gather(1, label)
        total = p.exp_().sum(1, keepdim=True)
        log_total = total.log()
        pixel_nll = (log_total - of_label)[:, 0]
        log_sum[at, span] = log_total.add_(top).masked_fill_(ignored, torch.inf)[:, 0]
        p.mul_(total.reciprocal_().masked_fill_(ignored, 0))
        by_class = _by_class_on_cpu if flat.device.type == "cpu" else _by_class
        class_pixels, class_nll, class_overlap = by_class(
            label[:, 0], ignored[:, 0], pixel_nll, (-pixel_nll).exp_(), classes
        )
        pixels[at] += class_pixels
        nll[at] += class_nll
        overlap[at] += class_overlap
        mass[at] += (p.square_() if square else p).sum(2)
    ends = torch.stack(torch.stack(extremes).aminmax()) if extremes else pixels.new_zeros(2)
    if check:
        # The only transfer from the device in a call, after every kernel has been launched.
        check_targets(target, ends, ignore_index, classes)
    return nll, overlap, mass, pixels, log_sum, ends


@torch.library.custom_op("statsvc::class_sums_gradient", mutates_args=())
def class_sums_gradient(
    logits: Tensor,
    target: Tensor,
    offset: Tensor | None,
    log_sum: Tensor,
    nll_gradient: Tensor,
    overlap_gradient: Tensor,
    mass_gradient: Tensor,
    ignore_index: int,
    square: bool,
) -> Tensor:
    """Return the gradient with respect to the logits, of their shape and dtype.

    The module's docstring has the formula. The other arguments are those and the results of `class_sums`;
    nll_gradient, overlap_gradient and mass_gradient are g, b and a, [N, C].
    """
    flat, labels = logits.flatten(2), target.flatten(1)
    gradient = torch.empty_like(flat)
    for at, span in _blocks(flat):
        x, (label, ignored) = flat[at, :, span], _labels(labels[at, span], ignore_index)
        if offset is not None:
            x = x + offset[:, None]
        p = (x - log_sum[at, None, span]).exp_()
        g = nll_gradient[at].gather(1, label[:, 0])[:, None].masked_fill_(ignored, 0)
        b_p = overlap_gradient[at].gather(1, label[:, 0])[:, None] * p.gather(1, label)
        gradient_block = gradient[at, :, span]
        out = gradient_block if gradient_block.dtype == p.dtype else torch.empty_like(p)
        torch.mul(p, mass_gradient[at, :, None], out=out)
        if square:
            out.mul_(p).mul_(2)
        a_p = out.sum(1, keepdim=True)
        out.addcmul_(p, g - a_p - b_p)
        out.scatter_add_(1, label, b_p - g)
        if _needs_cleaning(ignored, a_p):
            out.masked_fill_(ignored, 0)
        if out is not gradient_block:
            gradient_block.copy_(out)
    return gradient.view(logits.shape)


def sum_dtype(logits: Tensor) -> torch.dtype:
    """Return the dtype of the sums: float64 for float64 logits and else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _blocks(flat: Tensor) -> Iterator[Block]:
    """Yield slices (samples, pixels) of each block: part of one sample's pixels, or whole samples."""
    samples, classes, size = flat.shape
    limit = (CPU_BLOCK if flat.device.type == "cpu" else DEVICE_BLOCK) // classes
    step = min(max(limit, 1), max(size, 1))
    whole_samples = max(limit // max(size, 1), 1)
    for sample in range(0, samples, whole_samples):
        for start in range(0, size, step):
            yield slice(sample, sample + whole_samples), slice(start, start + step)


def _labels(block: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return int64 labels, with 0 at ignored pixels, and a bool mask of ignored pixels, both [n, 1, k]."""
    label = block[:, None].to(torch.int64)  # before the comparison: −100 equals 156 as uint8
    ignored = label == ignore_index
    return label.masked_fill(ignored, 0), ignored


def _needs_cleaning(ignored: Tensor, values: Tensor) -> bool:
    """Return whether ignored pixels may have inf or NaN in `values`, one number per pixel.

    On the CPU, the check is cheaper than cleaning. On other devices it would have to wait for the device, so
    the answer there is always True.
    """
    return values.device.type != "cpu" or not bool(values.where(ignored, 0).sum().isfinite())


def _by_class_on_cpu(
    label: Tensor, ignored: Tensor, nll: Tensor, of_label: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of pixels, Σ nll and Σ of_label of each class, [n, C], from labels [n, k].

    `bincount` sums in float64 and in a fixed order. Ignored pixels go to an extra bin.
    """
    bins = len(label) * classes
    first = torch.arange(0, bins, classes)[:, None]
    bin_index = (label + first).masked_fill_(ignored, bins).flatten()
    sums = [
        torch.bincount(bin_index, values, bins + 1)[:bins].view(-1, classes)
        for values in (None, nll.flatten().double(), of_label.flatten().double())
    ]
    return sums[0], sums[1], sums[2]


def _by_class(
    label: Tensor, ignored: Tensor, nll: Tensor, of_label: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same by masked sums, for devices on which atomic additions to one address are slow."""
    ids = torch.arange(classes, device=label.device)[:, None]
    belongs = (label[:, None] == ids) & ~ignored[:, None]
    of_class = [torch.where(belongs, values[:, None], 0).sum(2) for values in (nll, of_label)]
    return belongs.sum(2), of_class[0], of_class[1]


def check_targets(target: Tensor, ends: Tensor, ignore_index: int, classes: int) -> None:
    """Raise `InvalidParameter` naming the targets outside 0 … C−1.

    ends  the lowest and the highest target, int64 [2], ignored pixels excluded
    """
    lowest, highest = ends.tolist()
    if lowest >= 0 and highest < classes:
        return
    label = target.to(torch.int64)
    outside = label[(label != ignore_index) & ((label < 0) | (label >= classes))]
    ids, pixels = np.unique(outside.cpu().numpy(), return_counts=True)
    first = zip(ids[:NAMED_TARGETS], pixels[:NAMED_TARGETS], strict=True)
    listed = ", ".join(f"{value} ({count} pixels)" for value, count in first)
    more = ", …" if len(ids) > NAMED_TARGETS else ""
    raise InvalidParameter(
        (
            "target",
            f"contains {listed}{more}; expected class ids 0 … {classes - 1} or the ignored id "
            f"{ignore_index}. Map the labels to class ids, or set ignore_index",
        )
    )


@class_sums.register_fake
def _(logits: Tensor, target: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape, dtype = logits.shape[:2], sum_dtype(logits)
    sums = [logits.new_empty(shape, dtype=dtype) for _ in range(3)]
    pixels = logits.new_empty(shape, dtype=torch.int64)
    log_sum = logits.new_empty(target.flatten(1).shape, dtype=dtype)
    return sums[0], sums[1], sums[2], pixels, log_sum, pixels.new_empty(2)


@class_sums_gradient.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits.flatten(2)).view(logits.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, offset, ctx.ignore_index, ctx.square, _ = inputs
    *_, pixels, log_sum, ends = output
    ctx.save_for_backward(logits, target, offset, log_sum)
    ctx.mark_non_differentiable(pixels, log_sum, ends)


def _backward(ctx: Any, nll: Tensor, overlap: Tensor, mass: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    logits, target, offset, log_sum = ctx.saved_tensors
    gradient = class_sums_gradient(
        logits, target, offset, log_sum, nll, overlap, mass, ctx.ignore_index, ctx.square
    )
    return gradient, None, None, None, None, None


class_sums.register_autograd(_backward, setup_context=_save_for_backward)
