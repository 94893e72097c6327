"""What cross-entropy and Dice need of the logits, summed for each sample and class, and its gradient.

Over the valid pixels (those whose target is not `ignore_index`), with p the softmax over classes::

    nll[n, c]      Σ −ln p_c  over the pixels of class c
    overlap[n, c]  Σ p_c      over the pixels of class c
    mass[n, c]     Σ p_c      over all valid pixels; Σ p_c² with `square`
    pixels[n, c]   how many pixels class c has

Both losses are functions of these few numbers, so all work on tensors of the logits' size is here. The
backward pass is in closed form. With g, b and a the gradients with respect to nll, overlap and mass, a
pixel of class t gets ::

    ∂/∂x_c = p_c·(a_c + g_t − q) + [c = t]·(b_t·p_t − g_t),    q = Σ_k a_k·p_k + b_t·p_t

(`square` puts 2·a_c·p_c in the place of a_c). It takes p, computed again from the logits and one number per
pixel, ln Σ exp x. Forward and backward together thus allocate one tensor of the logits' size, the gradient;
all else has the size of a block of pixels, small enough to stay in the cache between the passes over it.

The functions are operators of Torch, so `torch.compile` takes them whole: it neither unrolls the loop over
blocks nor breaks the graph at the check of targets. There is no second derivative; Torch says so if asked.
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
"""Elements of a block on the CPU: 4 MiB of float32, so that the passes over it meet in the cache."""
DEVICE_BLOCK = 1 << 23
"""Elements of a block on other devices, where a launch costs more than memory."""


@torch.library.custom_op("statsvc::class_sums", mutates_args=())
def class_sums(
    logits: Tensor, target: Tensor, offset: Tensor | None, ignore_index: int, square: bool, check: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (nll, overlap, mass, pixels, log_sum, ends).

    logits  floating point [N, C, *spatial]
    target  integer [N, *spatial]
    offset  [C], added to the logits of every pixel, or None; it gets no gradient

    nll, overlap and mass are [N, C], float64 for float64 logits and else float32; pixels is int64 [N, C].
    log_sum, [N, pixels], is what the backward pass starts from: ln Σ exp x, and +inf at ignored pixels, so
    that their p is 0 there. ends, int64 [2], are the lowest and highest target but the ignored.

    With `check`, raises `InvalidParameter` where a target is neither `ignore_index` nor in 0 … C−1, naming
    the values; without, a target outside counts as the nearest class until `check_targets` is asked.
    """
    flat, labels = logits.flatten(2), target.flatten(1)
    samples, classes, _ = flat.shape
    dtype = _sum_dtype(logits)
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
        if _to_be_cleaned(ignored, top):
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
        found = by_class(label[:, 0], ignored[:, 0], pixel_nll, (-pixel_nll).exp_(), classes)
        pixels[at] += found[0]
        nll[at] += found[1]
        overlap[at] += found[2]
        mass[at] += (p.square_() if square else p).sum(2)
    ends = torch.stack(torch.stack(extremes).aminmax()) if extremes else pixels.new_zeros(2)
    if check:
        # One read from the device a call, after everything is launched.
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
    """Return the gradient with respect to the logits, of their shape and dtype; see the module."""
    flat, labels = logits.flatten(2), target.flatten(1)
    gradient = torch.empty_like(flat)
    for at, span in _blocks(flat):
        x, (label, ignored) = flat[at, :, span], _labels(labels[at, span], ignore_index)
        if offset is not None:
            x = x + offset[:, None]
        p = (x - log_sum[at, None, span]).exp_()
        g = nll_gradient[at].gather(1, label[:, 0])[:, None].masked_fill_(ignored, 0)
        b_p = overlap_gradient[at].gather(1, label[:, 0])[:, None] * p.gather(1, label)
        place = gradient[at, :, span]
        out = place if place.dtype == p.dtype else torch.empty_like(p)
        torch.mul(p, mass_gradient[at, :, None], out=out)
        if square:
            out.mul_(p).mul_(2)
        a_p = out.sum(1, keepdim=True)
        out.addcmul_(p, g - a_p - b_p)
        out.scatter_add_(1, label, b_p - g)
        if _to_be_cleaned(ignored, a_p):
            out.masked_fill_(ignored, 0)
        if out is not place:
            place.copy_(out)
    return gradient.view(logits.shape)


def _sum_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _blocks(flat: Tensor) -> Iterator[Block]:
    """Yield (samples, pixels) of each block: some of one sample's pixels, or all pixels of some samples."""
    samples, classes, size = flat.shape
    limit = (CPU_BLOCK if flat.device.type == "cpu" else DEVICE_BLOCK) // classes
    step = min(max(limit, 1), max(size, 1))
    together = max(limit // max(size, 1), 1)
    for sample in range(0, samples, together):
        for start in range(0, size, step):
            yield slice(sample, sample + together), slice(start, start + step)


def _labels(block: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return labels, int64 [n, 1, k] with 0 at ignored pixels, and which are ignored, bool [n, 1, k]."""
    label = block[:, None].to(torch.int64)  # first: −100 would equal 156 among uint8
    ignored = label == ignore_index
    return label.masked_fill(ignored, 0), ignored


def _to_be_cleaned(ignored: Tensor, number: Tensor) -> bool:
    """Return whether inf or NaN logits of ignored pixels reach `number`, one a pixel.

    Only on the CPU is asking cheaper than cleaning: elsewhere it would wait for the device.
    """
    return number.device.type != "cpu" or not bool(number.where(ignored, 0).sum().isfinite())


def _by_class_on_cpu(
    label: Tensor, ignored: Tensor, nll: Tensor, of_label: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of pixels, Σ nll and Σ of_label of each class, [n, C], from labels [n, k].

    `bincount` sums in float64 and in order. Ignored pixels go to a bin of their own.
    """
    bins = len(label) * classes
    first = torch.arange(0, bins, classes)[:, None]
    place = (label + first).masked_fill_(ignored, bins).flatten()
    found = [
        torch.bincount(place, values, bins + 1)[:bins].view(-1, classes)
        for values in (None, nll.flatten().double(), of_label.flatten().double())
    ]
    return found[0], found[1], found[2]


def _by_class(
    label: Tensor, ignored: Tensor, nll: Tensor, of_label: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same where pixels of one class would queue for one address: by masked sums."""
    ids = torch.arange(classes, device=label.device)[:, None]
    belongs = (label[:, None] == ids) & ~ignored[:, None]
    of_class = [torch.where(belongs, values[:, None], 0).sum(2) for values in (nll, of_label)]
    return belongs.sum(2), of_class[0], of_class[1]


def check_targets(target: Tensor, ends: Tensor, ignore_index: int, classes: int) -> None:
    """Raise `InvalidParameter` naming the targets outside 0 … C−1; `ends` are the lowest and highest."""
    lowest, highest = ends.tolist()
    if lowest >= 0 and highest < classes:
        return
    label = target.to(torch.int64)
    outside = label[(label != ignore_index) & ((label < 0) | (label >= classes))]
    ids, pixels = np.unique(outside.cpu().numpy(), return_counts=True)
    named = [f"{value} ({count} pixels)" for value, count in zip(ids[:5], pixels[:5], strict=True)]
    if len(ids) > 5:
        named.append("…")
    raise InvalidParameter(
        (
            "target",
            f"holds {', '.join(named)}: no class of {classes} (0 … {classes - 1}), and not the ignored id "
            f"{ignore_index}; map the labels to class ids, or set ignore_index",
        )
    )


@class_sums.register_fake
def _(logits: Tensor, target: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape, dtype = logits.shape[:2], _sum_dtype(logits)
    sums = [logits.new_empty(shape, dtype=dtype) for _ in range(3)]
    pixels = logits.new_empty(shape, dtype=torch.int64)
    log_sum = logits.new_empty(target.flatten(1).shape, dtype=dtype)
    return sums[0], sums[1], sums[2], pixels, log_sum, pixels.new_empty(2)


@class_sums_gradient.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits.flatten(2)).view(logits.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
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


class_sums.register_autograd(_backward, setup_context=_keep)
