"""The sums of `class_sums` by ordinary differentiable operations, for derivatives that its operator lacks.

The operator supports `backward()` only. `torch.func` (grad, vjp, jvp, jacfwd, jacrev, hessian, vmap) and
`torch.autograd.forward_ad` differentiate this form instead, in any order. It takes more time and several
tensors of the logits' size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from statsvc.losses.class_sums import check_targets, class_count, is_one_of, sum_dtype
from statsvc.losses.focal import focal

if TYPE_CHECKING:
    from collections.abc import Sequence


def requires_plain_sums(logits: Tensor) -> bool:
    """Return whether a transform of `torch.func` is active, or the logits have a forward-mode tangent."""
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(logits).tangent is not None  # type: ignore[no-untyped-call]


def plain_sums(
    logits: Tensor,
    target: Tensor,
    offset: Tensor | None,
    gamma: Tensor | None,
    ignored_ids: Sequence[int],
    square: bool,
    smoothing: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (nll, overlap, mass, spread, pixels), as `class_sums` does, and raise as it does."""
    dtype, classes = sum_dtype(logits), class_count(logits)
    label = target.flatten(1)[:, None].to(torch.int64)
    ignored = is_one_of(label, ignored_ids)
    _check(target, ignored_ids, classes)
    x = logits.flatten(2).to(dtype).masked_fill(ignored, 0)
    if x.shape[1] == 1:
        x = torch.cat([0 * x, x], 1)  # NaN for an infinite logit
    if offset is not None:
        x = x + offset[:, None].to(dtype)
    log_p = x.log_softmax(1)
    p = log_p.exp()
    ids = torch.arange(classes, device=logits.device)[:, None]
    belongs = (label == ids) & ~ignored
    valid_p, valid_nll = p.masked_fill(ignored, 0), -log_p.masked_fill(ignored, 0)
    nll = -log_p
    if gamma is not None:
        # The derivative of a power below 1 is infinite at p = 1, where the loss is 0.
        gammas = gamma.expand(classes)[:, None]
        constant = (log_p >= 0) & (gammas > 0)
        nll = focal(nll.masked_fill(constant, 1), gammas).masked_fill(constant, 0)
    nll, overlap = (torch.where(belongs, values, 0).sum(2) for values in (nll, p))
    spread = valid_nll.sum(2) if smoothing else torch.zeros_like(nll)
    return nll, overlap, (valid_p.square() if square else valid_p).sum(2), spread, belongs.sum(2)


def detached(tensor: Tensor) -> Tensor:
    """Return a tensor without derivatives that outlives a transform: with `vmap`, that of the whole batch."""
    tensor = tensor.detach()
    return _unwrapped(tensor) if torch._C._are_functorch_transforms_active() else tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _check(target: Tensor, ignored_ids: Sequence[int], classes: int) -> None:
    """Raise `InvalidParameter` for invalid targets, with `vmap` those of the whole batch."""
    label = _unwrapped(target).to(torch.int64)
    valid = label[~is_one_of(label, ignored_ids)]
    if valid.numel():
        check_targets(label, torch.stack(valid.aminmax()), ignored_ids, classes)


def _unwrapped(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
