"""Logging of the command line and of the processes that it starts."""

from __future__ import annotations

import logging
import sys

VERBOSE_LIBRARIES = ("distributed", "alembic", "asyncio", "tornado", "watchfiles")
"""Loggers that report routine events as warnings; only their errors are shown."""


def configure_logging(level: int) -> None:
    """Log to stderr from this level."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for library in VERBOSE_LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
