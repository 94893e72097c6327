"""The loss of a pixel in focal loss, (1 − p)^γ·(−ln p), and its derivative (Lin et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def exponent(gamma: Tensor, label: Tensor) -> Tensor:
    """Return γ of each label from γ of each class, [C]; or γ, if it is one number."""
    return gamma if gamma.ndim == 0 else gamma[label]


def focal(nll: Tensor, gamma: Tensor) -> Tensor:
    """Return (1 − p)^γ·(−ln p) from −ln p."""
    return nll * (-torch.expm1(-nll)).pow(gamma)


def focal_slope(nll: Tensor, gamma: Tensor) -> Tensor:
    """Return the derivative with respect to −ln p: (1 − p)^γ·(1 + γ·p·(−ln p)/(1 − p))."""
    rest = -torch.expm1(-nll)
    p = 1 - rest
    # The quotient is 1 at p = 1, and p·(−ln p) is 0 at p = 0.
    quotient = torch.where(rest > 0, p * nll / rest, 1).masked_fill_(p == 0, 0)
    return rest.pow(gamma) * (1 + gamma * quotient)
