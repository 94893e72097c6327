"""The worker processes of a local cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from statsvc_workers.cluster.local_cluster import LocalCluster


def worker_pids(cluster: LocalCluster) -> list[int]:
    """Return the process ids of the workers, which are started if necessary."""
    return sorted(cluster.client().run(os.getpid).values())
