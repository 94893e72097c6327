"""Differentiable sums over the processes of distributed training."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003  the operator's schema is read from the annotations
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
def sum_over_processes(values: Tensor, target: Tensor, ends: Tensor, ignored_ids: Sequence[int]) -> Tensor:
    """Return the sum of `values`, [..., C], over all processes. Both forward and backward are collectives.

    If every process computes the same loss from the sum, each process gets the gradient of the sum of these
    losses. After DistributedDataParallel averages over processes, that is the gradient of the single loss.

    target, ends  the targets of this process, and the lowest and the highest of them, int64 [2]

    Raises `InvalidParameter` on every process if one process has targets outside 0 … C−1, because the others
    would otherwise wait for it. The error there names the values; the error elsewhere names its rank.
    """
    classes = values.shape[-1]
    # A single collective: one flag per rank, set if its targets are invalid, is appended to the values.
    invalid = values.new_zeros(dist.get_world_size())
    invalid[dist.get_rank()] = (ends[0] < 0) | (ends[1] >= classes)
    total = torch.cat([values.flatten(), invalid])
    dist.all_reduce(total)
    ranks = total[values.numel() :].nonzero().flatten().tolist()
    check_targets(target, ends, ignored_ids, classes)
    if ranks:
        rank_list = ", ".join(map(str, ranks))
        raise InvalidParameter(
            (
                "target",
                f"of rank {rank_list} contains values that are not class ids (0 … {classes - 1}); the error "
                "on that rank names them",
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
