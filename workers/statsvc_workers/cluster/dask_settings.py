"""Settings of Dask that local and remote clusters share."""

from __future__ import annotations


def quiet_dask() -> None:
    """Silence Dask's log messages about events that the scan reports itself, such as a broken worker.

    The setting takes effect when distributed is imported, here and in the processes that it starts.
    """
    import dask

    dask.config.set({"logging.distributed": "critical"})
