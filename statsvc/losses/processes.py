"""Sums over the processes of a distributed training, which gradients pass through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from statsvc.errors import InvalidParameter
from statsvc.losses.class_sums import check_targets


def several_processes() -> bool:
    """Return whether this process is one of several in the default process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@torch.library.custom_op("statsvc::sum_over_processes", mutates_args=())
def sum_over_processes(values: Tensor, target: Tensor, ends: Tensor, ignore_index: int) -> Tensor:
    """Return the sum of `values`, [..., C], over all processes: a collective, and its backward another.

    Where every process computes the same loss from the sum, each gets the gradient of the sum of these
    losses; after DistributedDataParallel's mean over processes that is the gradient of the one loss.

    target, ends  this process's targets, and the lowest and highest of them, int64 [2]

    Raises `InvalidParameter` on every process where targets of one are outside 0 … C−1: the process would
    otherwise leave the others waiting for it. Its own error names the values, theirs its rank.
    """
    classes = values.shape[-1]
    # One collective for both: behind the values, whether the targets of each rank are wrong.
    wrong = values.new_zeros(dist.get_world_size())
    wrong[dist.get_rank()] = (ends[0] < 0) | (ends[1] >= classes)
    total = torch.cat([values.flatten(), wrong])
    dist.all_reduce(total)
    ranks = total[values.numel() :].nonzero().flatten().tolist()
    if ranks:
        check_targets(target, ends, ignore_index, classes)
        named = ", ".join(map(str, ranks))
        raise InvalidParameter(
            (
                "target",
                f"of rank {named} holds ids that are no class of {classes}; the error there names them",
            )
        )
    return total[: values.numel()].view(values.shape)


@sum_over_processes.register_fake
def _(values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values)


@torch.library.custom_op("statsvc::gradient_over_processes", mutates_args=())
def _gradient(gradient: Tensor) -> Tensor:
    total = gradient.clone()
    dist.all_reduce(total)
    return total


@_gradient.register_fake
def _(gradient: Tensor) -> Tensor:
    return torch.empty_like(gradient)


def _backward(_: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    return _gradient(gradient), None, None, None


sum_over_processes.register_autograd(_backward)
