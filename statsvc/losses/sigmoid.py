"""The sums of `class_sums` for a block of pixels with logits of one channel, and their gradient.

Logits of one channel, x, are those of two classes, 0 and x: the softmax of class 1 is p = sigmoid(x), and
−ln p_t is softplus(x) for class 0 and softplus(−x) for class 1. Dice is that of class 1, so overlap and mass
of class 0 are 0. With the notation of `class_sums`, the gradient at a pixel of class t, with y = t, is ::

    ∂/∂x = g_t·m·(p − y) + (a_1 + b_1·y)·p·(1 − p) + h_0·p + h_1·(p − 1)

An infinite logit makes all sums and its gradient NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from statsvc.losses.focal import exponent, focal, focal_slope
from statsvc.losses.softmax import Gradients  # noqa: TC001

EXACT = 50.0
"""Above this, softplus(x) is x in float64."""


def sigmoid_sums(
    x: Tensor, label: Tensor, ignored: Tensor, gamma: Tensor | None, square: bool, smoothing: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (nll, overlap, mass, spread, pixels), [n, 2].

    x        floating point [n, k]
    label    0 or 1, int64 [n, k]
    ignored  bool [n, k]
    gamma    [] or [2], or None
    """
    some_ignored = _some(ignored)
    if some_ignored:
        x = x.masked_fill(ignored, 0)
    y = label.to(x.dtype)
    nll, p = _target_nll(x, y), x.sigmoid()
    if gamma is not None:
        nll = focal(nll, exponent(gamma, label))
    if some_ignored:
        nll.masked_fill_(ignored, 0)
        p.masked_fill_(ignored, 0)
    nll_1, overlap = nll * y, (p * y).sum(1)
    mass = (p.square_() if square else p).sum(1)
    mass += 0 * x.sum(1)  # NaN if a logit is infinite
    zero = torch.zeros_like(mass)
    spread = [zero, zero]
    if smoothing:
        spread = [softplus(sign * x, threshold=EXACT).masked_fill_(ignored, 0).sum(1) for sign in (1, -1)]
    of_class_1 = label.sum(1)
    return (
        torch.stack([nll.sub_(nll_1).sum(1), nll_1.sum(1)], 1) + 0 * mass[:, None],
        torch.stack([zero, overlap], 1),
        torch.stack([zero, mass], 1),
        torch.stack(spread, 1),
        torch.stack([(~ignored).sum(1) - of_class_1, of_class_1], 1),
    )


def sigmoid_gradient(
    x: Tensor,
    label: Tensor,
    ignored: Tensor,
    gamma: Tensor | None,
    gradients: Gradients,
    square: bool,
) -> Tensor:
    """Return the gradient with respect to x, [n, k]; the gradients of the sums are [n, 2]."""
    of_nll, of_overlap, of_mass, of_spread = gradients
    y, p = label.to(x.dtype), x.sigmoid()
    out = (p - y).mul_(torch.lerp(of_nll[:, :1], of_nll[:, 1:], y))  # exact for y = 0 and 1
    if gamma is not None:
        out *= focal_slope(_target_nll(x, y), exponent(gamma, label))
    of_p = torch.addcmul(of_mass[:, 1:].expand_as(p) * (2 * p if square else 1), of_overlap[:, 1:], y)
    out += of_p.mul_(p).mul_(1 - p)
    if of_spread is not None:
        out += p * of_spread.sum(1, keepdim=True) - of_spread[:, 1:]
    out.add_(x, alpha=0)  # NaN if the logit is infinite
    return out.masked_fill_(ignored, 0) if _some(ignored) else out


def _target_nll(x: Tensor, y: Tensor) -> Tensor:
    return softplus((1 - 2 * y).mul_(x), threshold=EXACT)


def _some(ignored: Tensor) -> bool:
    """Return whether there may be ignored pixels; only on the CPU is the check cheaper than masking."""
    return ignored.device.type != "cpu" or bool(ignored.any())
