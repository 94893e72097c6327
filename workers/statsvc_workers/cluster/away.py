"""The error of a cluster that cannot count now."""

from __future__ import annotations


class ClusterAway(Exception):
    """No scheduler answers, or it has no worker: the job is requeued, and a later attempt retries it."""


def root_cause(error: BaseException) -> str:
    """Return the text of the first error in a chain, which Dask wraps several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
