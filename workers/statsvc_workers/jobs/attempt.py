"""One attempt of a leased job, and the settings of the runner that executes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from statsvc_workers.processes.stalls import STALL_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Job
    from statsvc.store.versions.location import Location
    from statsvc_workers.cluster.cluster import Cluster
    from statsvc_workers.jobs.progress import Progress

MAX_PIXELS = 1 << 28
"""Default limit of pixels of a label map: 16384 × 16384."""


class Settings(Struct, frozen=True):
    """Settings of a runner that apply to every dataset.

    device         where pixels are counted: "cpu", "cuda" or "auto"
    max_pixels     a larger label map is rejected before it is decoded
    search_parent  read class names also from the folder that contains a source; only for the source's owner
    roots          folders and URLs below which sources are read; None for no restriction, as in a local scan
    only_roots     whether a source outside `roots` is refused; otherwise it is read, but no link that leaves
                   it is followed
    stall_timeout  seconds after which a worker, or the scheduler, counts as hung without a sign of life
    """

    device: str = "auto"
    max_pixels: int = MAX_PIXELS
    search_parent: bool = False
    roots: tuple[str, ...] | None = None
    only_roots: bool = False
    stall_timeout: float = STALL_TIMEOUT


class Attempt(Struct, frozen=True):
    """One attempt of a leased job, with everything that it uses.

    cluster  None as long as nothing has to be counted
    check    called often; raises where the attempt must end
    """

    catalog: Catalog
    store: Location
    job: Job
    cluster: Cluster | None
    settings: Settings
    progress: Progress
    check: Callable[[], None]
