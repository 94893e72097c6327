"""The error of a cluster that cannot count now."""

from __future__ import annotations


class ClusterAway(Exception):
    """No scheduler answers, or it has no worker: the job is requeued, and a later attempt retries it."""


def root_cause(error: BaseException) -> str:
    """Return the type and text of the first error in a chain; Dask wraps it several times."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        if error.__suppress_context__ and error.__cause__ is None:
            break
        error = earlier
    return f"{type(error).__name__}: {error}".removesuffix(": ")
