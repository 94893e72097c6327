"""Logging of the command line and of the processes that it starts."""

from __future__ import annotations

import logging
import sys

from statsvc.common.one_line import one_line

VERBOSE_LIBRARIES = ("distributed", "alembic", "asyncio", "tornado", "watchfiles")
"""Loggers that report routine events as warnings; only their errors are shown."""


class OneLineFormatter(logging.Formatter):
    """Formats each record as one line, apart from a traceback: a name cannot forge a line of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: D102, N802 - of the base class
        record.message = one_line(record.message)
        return super().formatMessage(record)


def configure_logging(level: int) -> None:
    """Log to stderr from this level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for library in VERBOSE_LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
