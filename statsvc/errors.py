"""The errors statsvc raises, grouped by what a caller would do about them.

::

    StatsvcError
    ├── InvalidParameter (ValueError)    correct the call: `errors` names each parameter and what it takes
    ├── NotFound (LookupError)           no such dataset, version or job: the message lists what there is
    ├── Conflict (RuntimeError)          something else is under way or has that name already
    ├── Unanswerable (ValueError)        a good question that these statistics cannot answer
    ├── SourceError (OSError)            label maps cannot be listed or registered: mend the source
    │   └── AmbiguousSource              several kinds of label map: choose one of `patterns`
    ├── UnreadableSample (ValueError)    one label map cannot be counted; the rest of the scan goes on
    ├── DamagedVersion (OSError)         a stored array is not what was written: scan again
    ├── StoreError (RuntimeError)        the place of versions refuses: mend its address, its rights, its room
    │   └── StoreUnavailable             it does not answer: ask again
    ├── JobFailed (RuntimeError)         a recompute ended without publishing
    │   └── LeaseLost                    another attempt took the job over
    ├── CatalogError (RuntimeError)      the catalog cannot be used: wrong schema, unsafe file system
    └── ServerError (RuntimeError)       the statsvc server cannot be reached, or did not answer as one
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class StatsvcError(Exception):
    """Base of every error that statsvc raises on purpose; its text is meant for a person."""


class InvalidParameter(StatsvcError, ValueError):
    """One or more parameters are unknown, malformed or out of range.

    `errors` holds one `(parameter, message)` pair for each.
    """

    def __init__(self, *errors: tuple[str, str]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{name}: {message}" for name, message in errors))

    def __reduce__(self) -> tuple[type[InvalidParameter], tuple[tuple[str, str], ...]]:
        # Exceptions are pickled by their text otherwise, which the constructor does not take.
        return type(self), tuple(self.errors)


class NotFound(StatsvcError, LookupError):
    """The named dataset, version, class map or job does not exist."""


class Conflict(StatsvcError, RuntimeError):
    """The request contradicts the present state, for instance a name already taken."""


class Unanswerable(StatsvcError, ValueError):
    """The parameters are fine, but these statistics cannot answer them."""


class SourceError(StatsvcError, OSError):
    """A source of label maps cannot be listed."""


class AmbiguousSource(SourceError):
    """A source holds several kinds of label map; `patterns` has one glob for each to choose from."""

    def __init__(self, message: str, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        super().__init__(message)

    def __reduce__(self) -> tuple[type[AmbiguousSource], tuple[str, tuple[str, ...]]]:
        return type(self), (str(self), self.patterns)


class UnreadableSample(StatsvcError, ValueError):
    """One label map cannot be counted; the message says why and what to do about it."""


class DamagedVersion(StatsvcError, OSError):
    """A stored version is not what was written; the message names the array."""


class StoreError(StatsvcError, RuntimeError):
    """The place where versions are kept cannot be used; what it holds is not damaged."""


class StoreUnavailable(StoreError):
    """The place where versions are kept does not answer just now."""


class JobFailed(StatsvcError, RuntimeError):
    """A recompute ended without publishing a version."""


class LeaseLost(JobFailed):
    """The job's attempt is no longer the current one: somebody else took it over, or it was ended."""


class CatalogError(StatsvcError, RuntimeError):
    """The catalog cannot be used as it is."""


class ServerError(StatsvcError, RuntimeError):
    """The statsvc server could not be reached, or gave an answer that is not statsvc's."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` for the known name nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
