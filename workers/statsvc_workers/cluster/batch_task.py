"""The Dask task: count a batch of samples, and give up a sample of which a read does not return."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc_workers.cluster.tasks import count_samples
from statsvc_workers.processes.watched import Marks, Stuck, give_up, given_up, watched
from statsvc_workers.samples.members import sample_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member


class SampleStuck(Exception):
    """A sample was given up: (path, reason)."""


def count_batch(options: CountOptions, paths: Sequence[str | Member]) -> BatchResult:
    """Run `count_samples` as a Dask task that stops once it is cancelled.

    Dask does not interrupt the thread of a cancelled task; it only marks or removes the task's state. Raises
    `SampleStuck` where a sample cannot be read within the limits of `watched`.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    names = [sample_name(path) for path in paths]
    for name in names:
        if (reason := given_up(options.root, name)) is not None:
            raise SampleStuck(name, reason)
    marks = Marks()

    def cancelled_in_sample() -> bool:
        marks.begun += 1
        return marks.given_up or cancelled()

    try:
        return watched(
            lambda: count_samples(options, paths, marks.next(cancelled), cancelled=cancelled_in_sample),
            marks,
            options.stall_timeout,
        )
    except Stuck as stuck:
        name = names[max(0, marks.sample)]
        give_up(options.root, name, stuck)
        raise SampleStuck(name, str(stuck)) from None
