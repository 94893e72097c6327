"""The cluster that counts batches: local worker processes, or a running Dask cluster."""

from __future__ import annotations

from typing import TypeAlias

from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.cluster.remote_cluster import RemoteCluster

Cluster: TypeAlias = LocalCluster | RemoteCluster
"""Both classes have the same interface."""
