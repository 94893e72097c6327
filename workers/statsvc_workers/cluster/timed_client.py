"""A client of Dask whose calls all have a time limit."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.client import Client


class TimedClient(Client):
    """A client whose calls raise `TimeoutError` after `limit` seconds: a stopped scheduler never answers.

    timeout  seconds in which the client must have connected; raises `TimeoutError` or `OSError`
    """

    def __init__(self, *arguments: Any, timeout: float, limit: float, **options: Any) -> None:
        self.limit = limit
        super().__init__(*arguments, timeout=timeout, **options)

    async def _start(self, timeout: float, **options: Any) -> Any:
        # Dask limits only a part of it, and not the first answer of the scheduler.
        try:
            return await asyncio.wait_for(super()._start(timeout=timeout, **options), timeout)
        except TimeoutError:
            await self._close(fast=True)
            raise TimeoutError(f"no answer within {timeout:.0f} s") from None

    def sync(self, *arguments: Any, callback_timeout: Any = None, **options: Any) -> Any:
        """Call a coroutine function in the client's event loop, and wait for its result."""
        return super().sync(*arguments, callback_timeout=callback_timeout or self.limit, **options)
