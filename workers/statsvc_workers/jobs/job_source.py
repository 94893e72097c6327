"""The source of a job's dataset: detect it, and check that it still exists after counting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from statsvc.common.object_urls import is_url
from statsvc.dataset.selection import TRUSTED_NOTE
from statsvc.errors import AmbiguousSource, JobFailed, SourceError
from statsvc.store.catalog.catalog import Stale
from statsvc_workers.sources.listing import Source

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.catalog.records import Dataset


class SourceIdentity(Struct, frozen=True):
    """Identity of the folder of a source: device and inode; zeros for a URL."""

    device: int = 0
    inode: int = 0


def dataset_source(catalog: Catalog, dataset: Dataset) -> tuple[Source, Dataset]:
    """Return the source of a dataset, and the dataset.

    A source without a version, which was not inspected when it was registered, is inspected now. The result
    is in the returned dataset, and a detected pattern is stored in the catalog.

    Raises `JobFailed` for imported counts and for several kinds of label map, and `SourceError`.
    """
    if dataset.source is None:
        raise JobFailed(f"{dataset.name} contains imported counts, so there are no label maps to count")
    selection = dataset.configuration.selection
    inspected = dataset.current_number is not None or (selection is not None and selection.inspected)
    if dataset.pattern is not None and (inspected or dataset.pattern.startswith("/")):
        return Source(dataset.source, dataset.pattern), dataset
    # Not for a source that was inspected before.
    from statsvc.dataset.known_layouts import find_layout
    from statsvc_workers.sources.sources import open_source

    try:
        source = open_source(
            dataset.source,
            dataset.pattern,
            dataset.configuration.counting,
            layout=find_layout(selection.layout) if selection is not None and selection.layout else None,
            trusted=selection is not None and TRUSTED_NOTE in selection.notes,
        )
    except AmbiguousSource as ambiguous:
        patterns = ", ".join(ambiguous.patterns)
        raise JobFailed(
            f"{dataset.source} contains several kinds of label map. Choose one of the patterns {patterns} "
            f"with PATCH /datasets/{dataset.name}, or with statsvc scan --name {dataset.name} --pattern …"
        ) from ambiguous
    if dataset.pattern is not None:
        configuration = replace(
            dataset.configuration,
            selection=source.selection,
            splits=dataset.configuration.splits or source.splits,
        )
        return source, replace(dataset, configuration=configuration)
    try:
        return source, catalog.set_source(
            dataset, source.root, source.pattern, source.selection, source.splits
        )
    except Stale as stale:
        return dataset_source(catalog, stale.dataset)


def source_identity(root: str) -> SourceIdentity:
    """Return the identity of a source's folder. Raises `SourceError` where it does not exist."""
    if is_url(root):
        return SourceIdentity()
    try:
        status = Path(root).stat()
    except OSError as error:
        raise SourceError(
            f"the folder {root} is no longer accessible ({error.strerror}); is the disk mounted?"
        ) from error
    return SourceIdentity(status.st_dev, status.st_ino)


def check_source_exists(root: str, identity: SourceIdentity) -> None:
    """Raise `SourceError` where a source was unmounted, replaced or emptied since its identity was read.

    An empty mount point has another identity than the folder that was mounted there.
    """
    if is_url(root):
        from statsvc_workers.sources.remote_listing import check_not_emptied

        check_not_emptied(root)
    elif source_identity(root) != identity or _is_empty(root):
        raise SourceError(
            f"the folder {root} was unmounted, replaced or emptied during the scan. The rows counted so "
            "far are kept; mount it and scan again"
        )


def _is_empty(root: str) -> bool:
    try:
        return not any(Path(root).iterdir())
    except OSError:
        return True
