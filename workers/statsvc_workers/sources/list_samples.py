"""List the samples of a source, each with its fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from statsvc.common.object_urls import is_url
from statsvc.dataset.counting_rule import Counting
from statsvc.errors import SourceError, UnreadableSample
from statsvc_workers.samples import roots
from statsvc_workers.samples.kinds import is_container
from statsvc_workers.samples.members import SCAN_AGAIN, Member
from statsvc_workers.samples.stamps import folder_stamp, stamp_of
from statsvc_workers.sources.folders import OutsideEntry, file_fingerprint, walk
from statsvc_workers.sources.listing import Listing, ListingColumns
from statsvc_workers.sources.listing_errors import EXAMPLES, listing_failed, no_match, printable
from statsvc_workers.sources.patterns import matcher, may_be_folder_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from statsvc_workers.sources.folders import Entry
    from statsvc_workers.sources.listing import Fingerprint, Source


def list_samples(
    source: Source, counting: Counting | None = None, entries: Iterable[tuple[str, Entry]] | None = None
) -> Listing:
    """List the samples of a source with their size and times; containers are opened and listed.

    counting  chooses among the members of a container, and defines the rows of an array
    entries   if given, only these files and folders of a local source are listed, as `walk` yields them, and
              the listing may be empty

    Raises `SourceError` for any error while listing, so that a network share that becomes unavailable is not
    mistaken for removed files; and where no file matches.
    """
    counting = counting or Counting()
    if is_url(source.root):
        return _list_url(source, counting)
    return list_folder(source, counting, entries).finish()


class MustBeOpened(Exception):
    """The samples of a file are listed in the file, which must be opened."""


def list_folder(
    source: Source,
    counting: Counting,
    entries: Iterable[tuple[str, Entry]] | None = None,
    *,
    opens: bool = True,
) -> FolderListing:
    """List the samples of a folder as `list_samples` does, without NumPy unless there are containers.

    Raises `MustBeOpened` with `opens=False`, where a child process would have to open a container.
    """
    matches = matcher(source.pattern)
    listing = FolderListing(source.root, counting, opens=opens)
    unmatched: list[str] = []
    for path, entry in walk(source.root) if entries is None else entries:
        if matches(path.rstrip("/")) or (
            isinstance(entry, OutsideEntry) and may_be_folder_of(source.pattern, path)
        ):
            listing.add(path, entry)
        elif len(unmatched) < EXAMPLES:
            unmatched.append(path.rstrip("/"))
    listing.add_undecodable_names()
    if not listing.columns.paths and entries is None:
        raise no_match(source.root, source.pattern, unmatched)
    return listing


class FolderListing:
    """The listing of a folder tree, whose entries are added one by one.

    columns     the samples that were added
    unreadable  as in `Listing`
    """

    def __init__(self, root: str, counting: Counting, *, opens: bool = True) -> None:
        self._opens = opens
        self.columns = ListingColumns()
        self.unreadable: dict[str, str] = {}
        self._root, self._counting = root, counting
        self._undecodable: list[tuple[str, Fingerprint]] = []
        self._members: dict[str, Member] = {}
        self._class_names: tuple[str, ...] = ()
        self._notes: dict[str, str] = {}

    def add(self, walked_path: str, entry: Entry) -> None:
        """Add the samples of an entry of `walk`: of an array, a Zarr folder, a container or a file."""
        path = walked_path.rstrip("/")
        if not path.isascii() and printable(path) != path:
            fingerprint, _ = file_fingerprint(self._root, entry)
            self._undecodable.append((printable(path), fingerprint))
        elif isinstance(entry, OutsideEntry):
            self._add_unreadable(path, *file_fingerprint(self._root, entry))
        elif self._counting.rows != "array" and not is_container(path):
            self._add_array_rows(path, entry)
        elif walked_path.endswith("/"):
            self._add_zarr_folder(path, entry)
        else:
            fingerprint, reason = file_fingerprint(self._root, entry)
            if reason:
                self._add_unreadable(path, fingerprint, reason)
            elif is_container(path):
                self._add_container(path, entry, fingerprint)
            else:
                self.columns.add(path, fingerprint)

    def finish(self) -> Listing:
        """Return the listing; with the rule that merges masks, one of pictures."""
        columns = self.columns.take_sorted()
        listing = Listing(*columns, self.unreadable, self._members, self._class_names, notes=self._notes)
        if not self._counting.masks:
            return listing
        from statsvc_workers.sources import class_masks

        return class_masks.group(listing, self._counting.rule, self._counting.classes)

    def _add_unreadable(self, path: str, fingerprint: Fingerprint, reason: str) -> None:
        self.columns.add(path, fingerprint)
        self.unreadable[path] = reason

    def _add_member(self, member: Member, fingerprint: Fingerprint) -> None:
        self.columns.add(member.path, fingerprint)
        self._members[member.path] = replace(member, listed=fingerprint)

    def _add_array_rows(self, path: str, entry: Entry) -> None:
        if not self._opens:
            raise MustBeOpened
        from statsvc_workers import containers

        try:
            for member in containers.list_array_rows(self._root, path, self._counting):
                self._add_member(member, containers.fingerprint(self._root, member))
        except UnreadableSample as error:
            fingerprint, _ = file_fingerprint(self._root, entry)
            self._add_unreadable(path, fingerprint, str(error))
        except OSError as error:
            raise listing_failed(self._root, error) from error

    def _add_zarr_folder(self, path: str, entry: Entry) -> None:
        try:
            self.columns.add(path, folder_stamp(entry.path).fingerprint)
        except UnreadableSample as error:
            status = entry.stat(follow_symlinks=False)
            self._add_unreadable(path, (0, status.st_mtime_ns, status.st_ctime_ns), str(error))
            return
        except OSError as error:
            raise listing_failed(self._root, error) from error
        self._members[path] = Member(path, path, "zarr")

    def _add_container(self, path: str, entry: Entry, fingerprint: Fingerprint) -> None:
        if not self._opens:
            raise MustBeOpened
        from statsvc_workers import containers

        try:
            contents = containers.list_container(self._root, path, self._counting.key)
            status = roots.status(entry.path)  # `entry.stat` may return a cached status
        except UnreadableSample as error:
            self._add_unreadable(path, fingerprint, str(error))
            return
        except OSError as error:
            raise listing_failed(self._root, error) from error
        if contents.members[0].kind == "labelme" and self._class_names not in ((), contents.class_names):
            reason = "has another list of labels than the files before it; use one labels.txt for all files"
            self._add_unreadable(path, fingerprint, reason)
            return
        self._class_names = self._class_names or contents.class_names
        if contents.note:
            self._notes[path] = contents.note
        changed = stamp_of(status).fingerprint != fingerprint
        for member in contents.members:
            member_fingerprint = fingerprint
            if member.file != path or member.files:
                try:
                    member_fingerprint = containers.fingerprint(self._root, member)
                except OSError:
                    self.unreadable[member.path] = f"is listed in {path}, but missing; complete the folder"
                except UnreadableSample as error:
                    self.unreadable[member.path] = str(error)
            if changed:
                self.unreadable[member.path] = f"{path} changed while it was being listed; {SCAN_AGAIN}"
            self._add_member(member, member_fingerprint)

    def add_undecodable_names(self) -> None:
        """Add files whose names are not UTF-8 under a printable name that no other file has."""
        used = set(self.columns.paths) if self._undecodable else set()
        for printable_path, fingerprint in sorted(self._undecodable):
            path = printable_path
            while path in used:
                path += "?"
            used.add(path)
            self._add_unreadable(path, fingerprint, "has a name that is not UTF-8; rename it")


def _list_url(source: Source, counting: Counting) -> Listing:
    import numpy as np

    from statsvc_workers.sources import remote_listing

    matches = matcher(source.pattern)
    if counting.masks:
        raise SourceError(f"--rule {counting.rule} reads folders only, not {source.root}; copy the masks")
    remote = remote_listing.list_objects(source.root, source.pattern, matches, counting)
    if not remote.stamps:
        raise no_match(source.root, source.pattern, remote.unmatched)
    paths = sorted(remote.stamps)
    table = np.array([remote.stamps[path][:3] for path in paths], np.int64).reshape(-1, 3)
    size, mtime_ns, ctime_ns = (np.ascontiguousarray(table[:, column]) for column in range(3))
    etag = np.array([remote.stamps[path].etag for path in paths], np.dtypes.StringDType())
    return Listing(
        paths, size, mtime_ns, ctime_ns, remote.unreadable, remote.members, remote.class_names, etag
    )
