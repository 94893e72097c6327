"""Preflight check: whether a remote worker can count a source, checked before a job and before each batch."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from statsvc._version import __version__
from statsvc.common.object_urls import is_url
from statsvc.errors import InvalidParameter, JobFailed, UnreadableSample
from statsvc_workers.cluster.batch_task import count_batch
from statsvc_workers.kernels import device
from statsvc_workers.processes.watched import Marks, Stuck, watched
from statsvc_workers.samples.open_file import open_file
from statsvc_workers.samples.roots import restricted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distributed import Client

    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member

CHECK_SECONDS = 30.0
"""Timeout of the check on a worker: a hanging mount must not block the job."""

LISTED_WORKERS = 3
"""How many workers a message lists."""

VERSION_PARTS = (("statsvc", 9), ("dask", 9), ("distributed", 9), ("python", 2), ("numpy", 1))
"""Packages, and how many parts of their versions must agree between runner and workers.

Dask pickles objects between processes, which needs the same minor version of Python and major version of
NumPy.
"""


class PreflightFailed(Exception):
    """This worker cannot count the source; the message names its host and the reason."""


def check_and_count_batch(
    options: CountOptions, paths: Sequence[str | Member], version: str = __version__
) -> BatchResult:
    """Run `count_batch` on a worker that may have joined after the preflight check.

    `version` is the client's statsvc version, because the default value is pickled with the call. Raises
    `PreflightFailed`.
    """
    try:
        reason = watched(lambda: _problem(options, version), Marks(), options.stall_timeout)
    except Stuck:
        reason = f"does not get on reading {options.root}; check whether its mount hangs"
    if reason:
        raise PreflightFailed(f"the worker on {socket.gethostname()} {reason}")
    return count_batch(options, paths)


async def check_worker(options: CountOptions, sample: str | Member | None, version: str) -> str:
    """Return why this worker cannot count samples such as `sample`; "" where it can.

    Runs in a thread while the worker counts, so that the worker's event loop stays responsive.
    """
    import asyncio  # 13 ms, and most scans have no remote worker

    def problem() -> str:
        with restricted(options.roots):
            unreadable = "" if sample is None else _read_problem(options.root, sample)
        return _problem(options, version) or unreadable

    try:
        return await asyncio.wait_for(asyncio.to_thread(problem), CHECK_SECONDS)
    except TimeoutError:
        return f"could not read {options.root} within {CHECK_SECONDS:.0f} s; check whether its mount hangs"


def _read_problem(root: str, sample: str | Member) -> str:
    """Return why a sample cannot be opened on this host; "" where it can."""
    file = sample if isinstance(sample, str) else sample.file
    try:
        if is_url(root):
            from statsvc_workers.samples.object_store import bucket

            if isinstance(sample, str) or not sample.in_folder:
                bucket(root).head(file)
            else:
                next(bucket(root).list(file), None)
            return ""
        if isinstance(sample, str):
            source = open_file(root, file)
        else:
            source = open_file(root, file, sample.files, folder=sample.in_folder)
        with source:
            source.stamp()
    except OSError as error:
        return f"cannot read {file} in {root} ({error.strerror or error})"
    except UnreadableSample:
        return ""  # the scan reports it
    return ""


def _problem(options: CountOptions, version: str) -> str:
    """Return why this worker cannot count the source; "" where it can."""
    if version != __version__:
        return f"has statsvc {__version__}, but the runner has {version}; install the same release"
    try:
        device.require(options.device)
    except InvalidParameter:
        return "has no CUDA device that Torch can use; start the runner with --device auto or cpu"
    if is_url(options.root):
        return ""
    try:
        with os.scandir(options.root) as entries:
            empty = next(entries, None) is None
    except NotADirectoryError:
        empty = False  # a container is a file
    except OSError as error:
        return f"cannot read {options.root} ({error.strerror})"
    return f"finds {options.root} empty; check that the disk is mounted there" if empty else ""


def check(client: Client, address: str, options: CountOptions, sample: str | Member) -> None:
    """Check that the scheduler and every worker can count this source. Raises `JobFailed` where one cannot.

    Raises `OSError` where the scheduler or a worker disconnects in the meantime.
    """
    _check_versions(client, address)
    # A sample that this host cannot read either is reported by the scan.
    with restricted(options.roots):
        readable_sample = None if _read_problem(options.root, sample) else sample
    # The function is pickled by reference, so a worker runs its own, now equal, version of statsvc.
    answers = client.run(check_worker, options, readable_sample, __version__, on_error="return")
    problems = {}
    for worker, answer in answers.items():
        if isinstance(answer, OSError):
            raise answer  # the worker or its host is shutting down
        if answer != "":
            problems[worker] = answer if isinstance(answer, str) else f"failed the check ({answer!r})"
    if problems:
        raise JobFailed(
            f"{_listed(client, problems)}. Every worker must see the label maps under the same path as the "
            "runner, and have the same device; fix the worker and scan again"
        )


def _check_versions(client: Client, address: str) -> None:
    """Raise `JobFailed` where the versions of the scheduler or a worker differ from those of this process."""
    versions = client.get_versions(packages=["statsvc", "numpy"])
    runner = versions["client"]["packages"]
    scheduler = versions["scheduler"]["packages"]
    different = [
        f"{package} {scheduler[package]}, but the runner has {runner[package]}"
        for package in ("dask", "distributed")
        if scheduler[package] != runner[package]
    ]
    if different:
        raise JobFailed(
            f"the Dask scheduler at {address} has {' and '.join(different)}; install the same versions"
        )
    problems = {}
    for worker, answer in versions["workers"].items():
        if not isinstance(answer, dict):
            continue  # it disconnected, or `check_worker` reports the problem
        if differences := _differences(answer["packages"], runner):
            problems[worker] = f"has {', '.join(differences)}"
    if problems:
        raise JobFailed(
            f"{_listed(client, problems)}. Workers need the runner's versions. Run: "
            f"pip install 'statsvc[workers]=={__version__}' 'distributed=={runner['distributed']}'"
        )


def _differences(worker: Mapping[str, Any], runner: Mapping[str, Any]) -> list[str]:
    """Return the differences in versions that would break batches, or change how they are counted."""
    differences = []
    for package, parts in VERSION_PARTS:
        worker_version, own_version = worker.get(package), runner[package]
        if worker_version is None:
            differences.append(f"no {package}")
        elif worker_version.split(".")[:parts] != own_version.split(".")[:parts]:
            differences.append(f"{package} {worker_version} (the runner has {own_version})")
    return differences


def _listed(client: Client, problems: Mapping[str, str]) -> str:
    """Return a list of workers with their hosts and problems, for a message."""
    hosts = client.run(socket.gethostname, workers=list(problems), on_error="return")
    texts = [
        f"the Dask worker {worker} on {hosts.get(worker)} {problems[worker]}" for worker in sorted(problems)
    ]
    more = f"; and {len(texts) - LISTED_WORKERS} more" if len(texts) > LISTED_WORKERS else ""
    return "; ".join(texts[:LISTED_WORKERS]) + more
