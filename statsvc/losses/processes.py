"""Sums over the processes of a distributed training, which gradients pass through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def several_processes() -> bool:
    """Return whether this process is one of several in the default process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@torch.library.custom_op("statsvc::sum_over_processes", mutates_args=())
def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of `values` over all processes: a collective, and its backward pass is another.

    Where every process computes the same loss from the sum, each gets the gradient of the sum of these
    losses; after DistributedDataParallel's mean over processes that is the gradient of the one loss.
    """
    total = values.clone()
    dist.all_reduce(total)
    return total


@sum_over_processes.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


def _backward(_: Any, gradient: Tensor) -> Tensor:
    total: Tensor = sum_over_processes(gradient)
    return total


sum_over_processes.register_autograd(_backward)
