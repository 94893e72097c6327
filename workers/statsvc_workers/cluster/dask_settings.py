"""Settings of Dask that local and remote clusters share."""

from __future__ import annotations


def quiet_dask() -> None:
    """Silence Dask's log messages about events that the scan reports itself, such as a broken worker.

    The settings take effect when distributed is imported, here and in the processes that it starts.
    """
    import dask

    # Its event loop logs each failed connection.
    dask.config.set({"logging.distributed": "critical", "logging.asyncio": "critical"})
