"""Settings of Dask that local and remote clusters share."""

from __future__ import annotations

QUIET = ("distributed", "asyncio", "tornado.application")
"""Loggers of Dask and of its event loop, which report each lost connection with a traceback."""


def quiet_dask() -> None:
    """Silence Dask's log messages about events that the scan reports itself, such as a broken worker.

    The settings take effect when distributed is imported, here and in the processes that it starts.
    """
    import dask

    dask.config.set({"logging": dask.config.get("logging", {}) | dict.fromkeys(QUIET, "critical")})
