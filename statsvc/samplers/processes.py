"""The processes of distributed training, and loaders that distribute draws over them."""

from __future__ import annotations

import os
import sys
import warnings

import torch.distributed as dist


def distributed_by_accelerate() -> bool:
    """Return whether a loader of Accelerate, which gives each rank its part of the indices, is the caller.

    Accelerate also does this to subclasses of `DistributedSampler` and does not notify samplers, so the call
    stack is the only evidence.
    """
    accelerate = sys.modules.get("accelerate.data_loader")
    if accelerate is None:
        return False
    loaders = (accelerate.BatchSamplerShard, accelerate.DataLoaderDispatcher)
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_globals is vars(accelerate) and isinstance(frame.f_locals.get("self"), loaders):
            return True
        frame = frame.f_back
    return False


def warn_if_ranks_draw_the_same(ranks: int) -> None:
    """Warn if an iterator divides its draws by `ranks` = 1, but the launcher started more processes."""
    initialized = dist.is_available() and dist.is_initialized()
    processes = str(dist.get_world_size()) if initialized else os.environ.get("WORLD_SIZE") or "1"
    if ranks == 1 and processes != "1":
        reason = (
            "num_replicas is 1. Leave out rank and num_replicas"
            if initialized
            else "torch.distributed is not initialized. Call init_process_group before iterating"
        )
        warnings.warn(
            f"each of the {processes} processes draws the same indices, because {reason}",
            UserWarning,
            stacklevel=3,
        )
