"""The sums of `class_sums` by ordinary differentiable operations, for derivatives that its operator lacks.

The operator supports `backward()` only. `torch.func` (grad, vjp, jvp, jacfwd, jacrev, hessian, vmap) and
`torch.autograd.forward_ad` differentiate this form instead, in any order. It takes more time and several
tensors of the logits' size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from statsvc.losses.class_sums import check_targets, sum_dtype


def requires_plain_sums(logits: Tensor) -> bool:
    """Return whether a transform of `torch.func` is active, or the logits have a forward-mode tangent."""
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(logits).tangent is not None  # type: ignore[no-untyped-call]


def plain_sums(
    logits: Tensor, target: Tensor, offset: Tensor | None, ignore_index: int, square: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (nll, overlap, mass, pixels), as `class_sums` does. Raises `InvalidParameter` as it does."""
    dtype = sum_dtype(logits)
    label = target.flatten(1)[:, None].to(torch.int64)
    ignored = label == ignore_index
    _check(target, ignore_index, logits.shape[1])
    x = logits.flatten(2).to(dtype).masked_fill(ignored, 0)
    if offset is not None:
        x = x + offset[:, None].to(dtype)
    log_p = x.log_softmax(1)
    p = log_p.exp()
    ids = torch.arange(logits.shape[1], device=logits.device)[:, None]
    belongs = (label == ids) & ~ignored
    valid_p = p.masked_fill(ignored, 0)
    nll, overlap = (torch.where(belongs, values, 0).sum(2) for values in (-log_p, p))
    return nll, overlap, (valid_p.square() if square else valid_p).sum(2), belongs.sum(2)


def detached(tensor: Tensor) -> Tensor:
    """Return a tensor without derivatives that outlives a transform: with `vmap`, that of the whole batch."""
    tensor = tensor.detach()
    return _unwrapped(tensor) if torch._C._are_functorch_transforms_active() else tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _check(target: Tensor, ignore_index: int, classes: int) -> None:
    """Raise `InvalidParameter` for invalid targets, with `vmap` those of the whole batch."""
    label = _unwrapped(target).to(torch.int64)
    valid = label[label != ignore_index]
    if valid.numel():
        check_targets(label, torch.stack(valid.aminmax()), ignore_index, classes)


def _unwrapped(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
