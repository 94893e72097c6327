"""Whether a worker on another host can count a source: asked up front, and again before each batch."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from statsvc import __version__
from statsvc.common.object_urls import is_url
from statsvc.errors import InvalidParameter, JobFailed, UnreadableSample
from statsvc_workers.cluster.tasks import count_batch
from statsvc_workers.kernels import device
from statsvc_workers.samples.open_sample import opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distributed import Client

    from statsvc_workers.cluster.tasks import BatchResult, CountOptions
    from statsvc_workers.samples.members import Member

ASK_SECONDS = 30.0
"""How long workers may take to answer: a mount that hangs must not hang the job."""

NAMED = 3
"""How many workers a message names."""


class Unfit(Exception):
    """This worker cannot count the source; the message says where it runs and why."""


def count_batch_if_fit(
    reading: CountOptions, paths: Sequence[str | Member], version: str = __version__
) -> BatchResult:
    """Run `count_batch` on a worker that may have joined since workers were checked.

    `version` is that of the client: it is pickled with the call. Raises `Unfit`.
    """
    if reason := _unfit(reading, version):
        raise Unfit(f"the worker on {socket.gethostname()} {reason}")
    return count_batch(reading, paths)


async def look(reading: CountOptions, sample: str | Member | None, version: str) -> str:
    """Return why this worker cannot count samples like this one; empty where it can.

    Runs beside what the worker counts, in a thread, so that the worker goes on to answer.
    """

    def answer() -> str:
        return _unfit(reading, version) or ("" if sample is None else _unreadable(reading.root, sample))

    try:
        return await asyncio.wait_for(asyncio.to_thread(answer), ASK_SECONDS)
    except TimeoutError:
        return (
            f"looks at {reading.root} for {ASK_SECONDS:.0f} s without an answer: does the mount hang there?"
        )


def _unreadable(root: str, sample: str | Member) -> str:
    """Return why a sample cannot be opened here; empty where it can."""
    file = sample if isinstance(sample, str) else sample.file
    try:
        if is_url(root):
            from statsvc_workers.samples.object_store import bucket

            place = bucket(root)
            if isinstance(sample, str) or not sample.in_folder:
                place.head(file)
            else:
                next(place.list(file), None)
            return ""
        if isinstance(sample, str):
            source = opened(root, file)
        else:
            source = opened(root, file, sample.files, folder=sample.in_folder)
        with source:
            source.stamp()
    except OSError as error:
        return f"cannot read {file} in {root} ({error.strerror or error})"
    except UnreadableSample:
        return ""  # what it is, the scan says
    return ""


def _unfit(reading: CountOptions, version: str) -> str:
    if version != __version__:
        return f"has statsvc {__version__} where the runner has {version}: install the same release"
    try:
        device.require(reading.device)
    except InvalidParameter:
        return "has no CUDA device that Torch can use: start the runner with --device auto or cpu"
    if is_url(reading.root):
        return ""
    try:
        with os.scandir(reading.root) as entries:
            empty = next(entries, None) is None
    except NotADirectoryError:
        empty = False  # a container of label maps: a file
    except OSError as error:
        return f"cannot read {reading.root} ({error.strerror})"
    return f"sees nothing in {reading.root}: is the disk mounted there?" if empty else ""


def check(client: Client, address: str, reading: CountOptions, sample: str | Member) -> None:
    """Ask the scheduler and every worker whether they can count this source. Raises `JobFailed`.

    Raises `OSError` where the scheduler or a worker goes away meanwhile.
    """
    _same_versions(client, address)
    # One that cannot be read here either is the scan's to name.
    asked = None if _unreadable(reading.root, sample) else sample
    # By reference: what the worker runs is its own statsvc, the same as here by now.
    answers = client.run(look, reading, asked, __version__, on_error="return")
    found = {}
    for worker, answer in answers.items():
        if isinstance(answer, OSError):
            raise answer  # it is going away, or its host is
        if answer != "":
            found[worker] = answer if isinstance(answer, str) else f"failed when asked ({answer!r})"
    if found:
        raise JobFailed(
            f"{_named(client, found)}. Every worker has to see the label maps under the same path as the "
            "runner, with the same device; scan again when it does"
        )


def _same_versions(client: Client, address: str) -> None:
    versions = client.get_versions(packages=["statsvc", "numpy"])
    own = versions["client"]["packages"]
    scheduler = versions["scheduler"]["packages"]
    different = [
        f"{package} {scheduler[package]} where the runner has {own[package]}"
        for package in ("dask", "distributed")
        if scheduler[package] != own[package]
    ]
    if different:
        raise JobFailed(f"the Dask scheduler at {address} has {' and '.join(different)}; install the same")
    found = {}
    for worker, told in versions["workers"].items():
        if not isinstance(told, dict):
            continue  # it went away, or `look` tells
        if said := _differences(told["packages"], own):
            found[worker] = f"has {', '.join(said)}"
    if found:
        raise JobFailed(
            f"{_named(client, found)}. Workers need the runner's versions: "
            f"pip install 'statsvc[workers]=={__version__}' 'distributed=={own['distributed']}'"
        )


def _differences(worker: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Say in what a worker differs so that batches would not arrive, or be counted otherwise."""
    said = []
    # Dask pickles between processes: the same minor version of Python, and of NumPy the same major.
    for package, parts in (("statsvc", 9), ("dask", 9), ("distributed", 9), ("python", 2), ("numpy", 1)):
        theirs, ours = worker.get(package), own[package]
        if theirs is None:
            said.append(f"no {package}")
        elif theirs.split(".")[:parts] != ours.split(".")[:parts]:
            said.append(f"{package} {theirs} where the runner has {ours}")
    return said


def _named(client: Client, found: Mapping[str, str]) -> str:
    """Name the workers and their hosts, each with what is wrong."""
    hosts = client.run(socket.gethostname, workers=list(found), on_error="return")
    texts = [f"the Dask worker {worker} on {hosts.get(worker)} {found[worker]}" for worker in sorted(found)]
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more
