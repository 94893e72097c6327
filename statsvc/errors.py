"""The exceptions that statsvc raises, grouped by what a handler does about them.

::

    StatsvcError
    │
    │   Correct the request
    ├── InvalidParameter (ValueError)    a parameter is unknown, malformed or out of range; see `errors`
    │   └── Inapplicable                 valid parameters contradict each other or the dataset
    ├── NotFound (LookupError)           no dataset, version, class map or job has that name
    ├── Unanswerable (ValueError)        the request is valid, but these counts cannot answer it
    ├── Conflict (RuntimeError)          the request contradicts the current state, such as a name in use
    │
    │   Fix the data
    ├── SourceError (OSError)            the label maps cannot be listed or registered
    │   └── AmbiguousSource              the source contains several kinds of label map: choose one pattern
    ├── UnreadableSample (ValueError)    one label map cannot be counted; the scan continues without it
    ├── DamagedVersion (OSError)         a stored array differs from what was written: scan again
    │
    │   Fix the installation
    ├── CatalogError (RuntimeError)      the catalog is unusable: wrong schema or unsafe file system
    ├── StoreError (RuntimeError)        the version store rejected a request: check URL, permissions, space
    │   │
    │   │   Retry later
    │   └── StoreUnavailable             the version store does not respond
    ├── Busy (RuntimeError)              too many requests that take long: try again later
    ├── ServerError (RuntimeError)       the statsvc server is unreachable or sent an invalid response
    │
    │   Check the job
    └── JobFailed (RuntimeError)         a job ended without publishing a version
        └── LeaseLost                    another attempt owns the job, or the job has ended
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class StatsvcError(Exception):
    """Base class of every exception that statsvc raises deliberately.

    The message is written for the user: what happened, why, and what to do next.
    """


class InvalidParameter(StatsvcError, ValueError):
    """One or more parameters are unknown, malformed or out of range.

    `errors` contains one `(parameter, message)` pair per problem.
    """

    def __init__(self, *errors: tuple[str, str]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{name}: {message}" for name, message in errors))

    def __reduce__(self) -> tuple[type[InvalidParameter], tuple[tuple[str, str], ...]]:
        # By default an exception is pickled with its message, which this constructor does not accept.
        return type(self), tuple(self.errors)


class Inapplicable(InvalidParameter):
    """Every parameter fits its schema, but they contradict each other, the dataset, or rules of URLs."""


class NotFound(StatsvcError, LookupError):
    """No dataset, version, class map or job has the requested name; the message lists the known names."""


class Unanswerable(StatsvcError, ValueError):
    """The parameters are valid, but the counts of this version cannot answer the request."""


class Conflict(StatsvcError, RuntimeError):
    """The request contradicts the current state, for instance because the name is already in use."""


class SourceError(StatsvcError, OSError):
    """The label maps of a source cannot be listed, or the source cannot be registered."""


class AmbiguousSource(SourceError):
    """A source contains several kinds of label map; `patterns` has one glob per kind to choose from."""

    def __init__(self, message: str, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        super().__init__(message)

    def __reduce__(self) -> tuple[type[AmbiguousSource], tuple[str, tuple[str, ...]]]:
        return type(self), (str(self), self.patterns)


class UnreadableSample(StatsvcError, ValueError):
    """One label map cannot be counted; the message says why and how to fix it."""


class DamagedVersion(StatsvcError, OSError):
    """A stored version differs from what was written; the message names the array."""


class CatalogError(StatsvcError, RuntimeError):
    """The catalog is unusable: its schema does not match, or its file system is unsafe for SQLite."""


class StoreError(StatsvcError, RuntimeError):
    """The version store rejected a request; the versions in it are not damaged."""


class ReadOnlyStore(StoreError):
    """The version store is mounted read-only, so this process can publish no version."""


class StoreUnavailable(StoreError):
    """The version store does not respond; the same request can succeed later."""


class Busy(StatsvcError, RuntimeError):
    """Too many requests that take long are waiting; the same request can succeed later."""


class ServerError(StatsvcError, RuntimeError):
    """The statsvc server is unreachable, or its response is not a valid statsvc response."""


class JobFailed(StatsvcError, RuntimeError):
    """A job ended without publishing a version."""


class LeaseLost(JobFailed):
    """This attempt no longer owns the job: another attempt took it over, or the job has ended."""


MAX_COMPARED_NAMES = 200
MAX_COMPARED_LENGTH = 100
"""Known names that `nearest` compares, and the longest name: its time grows with both."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` for the known name most similar to `name`, or an empty string."""
    if len(name) > MAX_COMPARED_LENGTH:
        return ""
    import difflib

    compared = itertools.islice((k for k in known if len(k) <= MAX_COMPARED_LENGTH), MAX_COMPARED_NAMES)
    matches = difflib.get_close_matches(name, list(compared), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
