"""Whether the processes of a training have the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.errors import Conflict

if TYPE_CHECKING:
    from statsvc.weighting.class_weights import ClassWeights


def require_same(weights: ClassWeights) -> None:
    """Raise `Conflict` on every rank unless all have the same weights.

    A collective over the default process group; outside of one, nothing.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, weights.digest)
    if len(set(digests)) > 1:
        different = ", ".join(f"rank {rank}: {digest}" for rank, digest in enumerate(digests))
        raise Conflict(
            f"the ranks train with different class weights (digests {different}); ask for them with "
            "sync=True, or pin them with version="
        )
