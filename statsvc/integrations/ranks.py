"""A check that every process of a training run has the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.errors import Conflict

if TYPE_CHECKING:
    from statsvc.weighting.class_weights import ClassWeights


def require_same(weights: ClassWeights) -> None:
    """Raise `Conflict` on every rank unless all ranks have the same weights.

    This is a collective over the default process group. Without one, it does nothing.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, weights.digest)
    if len(set(digests)) > 1:
        by_rank = ", ".join(f"rank {rank}: {digest}" for rank, digest in enumerate(digests))
        raise Conflict(
            f"the ranks train with different class weights (digests {by_rank}). Request them with sync=True, "
            "or with a version number"
        )
