"""The sums of `class_sums` for a block of pixels with logits of several channels, and their gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from statsvc.losses.focal import exponent, focal, focal_slope

Gradients = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""The gradients of a loss with respect to nll, overlap, mass and spread."""


def softmax_sums(
    x: Tensor,
    label: Tensor,
    ignored: Tensor,
    gamma: Tensor | None,
    square: bool,
    smoothing: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """Return (log_sum, nll, overlap, mass, spread, pixels) as `class_sums` does, log_sum [n, k].

    x               floating point [n, C, k]
    label, ignored  int64 and bool [n, 1, k]
    dtype           that of the sums
    """
    classes = x.shape[1]
    top = x.amax(1, keepdim=True)
    if _needs_cleaning(ignored, top):
        x = x.masked_fill(ignored, 0)
        top = x.amax(1, keepdim=True)
    top = top.to(dtype)
    p = x - top
    of_label = p.gather(1, label)
    total = p.exp_().sum(1, keepdim=True)
    log_total = total.log()
    nll = (log_total - of_label)[:, 0]
    spread = (log_total - (x - top)).masked_fill_(ignored, 0).sum(2) if smoothing else p.new_zeros(())
    log_sum = log_total.add_(top).masked_fill_(ignored, torch.inf)[:, 0]
    p.mul_(total.reciprocal_().masked_fill_(ignored, 0))
    p_label = (-nll).exp_()
    if gamma is not None:
        nll = focal(nll, exponent(gamma, label[:, 0]))
    by_class = _by_class_on_cpu if x.device.type == "cpu" else _by_class
    pixels, class_nll, overlap = by_class(label[:, 0], ignored[:, 0], nll, p_label, classes)
    mass = (p.square_() if square else p).sum(2)
    return log_sum, class_nll, overlap, mass, spread, pixels


def softmax_gradient(
    x: Tensor,
    label: Tensor,
    ignored: Tensor,
    gamma: Tensor | None,
    log_sum: Tensor,
    gradients: Gradients,
    square: bool,
    out: Tensor,
) -> None:
    """Write the gradient with respect to x to `out`, [n, C, k].

    log_sum    [n, 1, k], +inf at ignored pixels
    gradients  g, b, a and h of `class_sums`, each [n, C]; h is None without `smoothing`
    """
    of_nll, of_overlap, of_mass, of_spread = gradients
    p = (x - log_sum).exp_()
    g = of_nll.gather(1, label[:, 0])[:, None].masked_fill_(ignored, 0)
    if gamma is not None:
        label_nll = (log_sum - x.gather(1, label)).masked_fill_(ignored, 0).clamp_(min=0)
        g *= focal_slope(label_nll, exponent(gamma, label))
    b_p = of_overlap.gather(1, label[:, 0])[:, None] * p.gather(1, label)
    work = out if out.dtype == p.dtype else torch.empty_like(p)
    torch.mul(p, of_mass[:, :, None], out=work)
    if square:
        work.mul_(p).mul_(2)
    a_p = work.sum(1, keepdim=True)
    factor = g - a_p - b_p
    if of_spread is not None:
        h = of_spread[:, :, None]
        work.sub_(h.where(~ignored, 0))
        factor += h.sum(1, keepdim=True)
    work.addcmul_(p, factor)
    work.scatter_add_(1, label, b_p - g)
    if _needs_cleaning(ignored, a_p):
        work.masked_fill_(ignored, 0)
    if work is not out:
        out.copy_(work)


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
