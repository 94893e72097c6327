"""Logging of the command line and of the processes that it starts."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from statsvc.common.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERBOSE_LIBRARIES = ("distributed", "alembic", "asyncio", "tornado", "watchfiles")
"""Loggers that report routine events as warnings; only their errors are shown."""

FORMATS = ("text", "json")

FORMAT_VARIABLE = "STATSVC_LOG_FORMAT"
"""Environment variable with the format of the log, which child processes inherit."""

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
"""A request id that is accepted from a client: it can neither break a line nor fill the log."""

_context: ContextVar[Mapping[str, str]] = ContextVar("statsvc_log_context", default={})  # noqa: B039
_of_process: dict[str, str] = {}

_PREFIX = os.urandom(4).hex()
_numbers = itertools.count()


@contextlib.contextmanager
def log_context(*, whole_process: bool = False, **values: str | None) -> Iterator[None]:
    """Add fields to every record that is logged within: by this task or thread, or by the whole process.

    Fields that are None are left out. A function that runs in a thread of anyio inherits the fields.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if whole_process:
        _of_process.update(given)
        try:
            yield
        finally:
            for name in given:
                del _of_process[name]
        return
    token = _context.set({**_context.get(), **given})
    try:
        yield
    finally:
        _context.reset(token)


def set_request_id(request_id: str) -> None:
    """Add the id of the request to all that the present task logs, until it ends."""
    _context.set({"request_id": request_id})


def current_request_id() -> str | None:
    """Return the id of the request that is being answered, if any."""
    return _context.get().get("request_id")


def new_request_id() -> str:
    """Return a request id that no other request has: 16 hexadecimal digits."""
    return f"{_PREFIX}{next(_numbers):08x}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record: of the process, of the task, and its own (`extra={"fields": …}`)."""
    return {**_of_process, **_context.get(), **getattr(record, "fields", {})}


class OneLineFormatter(logging.Formatter):
    """Formats each record as one line, apart from a traceback: a name cannot forge a line of the log.

    Times are in UTC. The ids of the request and of the job follow the message.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: D102, N802 - of the base class
        ids = {**_of_process, **_context.get()}
        record.message = one_line(record.message) + "".join(f" {name}={ids[name]}" for name in sorted(ids))
        return super().formatMessage(record)


class JsonFormatter(OneLineFormatter):
    """Formats each record as a JSON object in one line.

    Keys: time (ISO 8601, UTC), level, logger, message, pid, and where known request_id, job, the fields of
    the access log and of the audit log, and exception.
    """

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102 - of the base class
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # only ASCII: no character of a name can break the line


def configure_logging(level: int) -> None:
    """Log to stderr from this level, in the format that `FORMAT_VARIABLE` names; the default is text."""
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get(FORMAT_VARIABLE) == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    for library in VERBOSE_LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
