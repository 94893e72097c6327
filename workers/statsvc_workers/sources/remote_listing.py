"""List the samples below a URL by the rules of a folder tree, from one listing of the objects."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from statsvc.common import object_urls
from statsvc.errors import SourceError, UnreadableSample
from statsvc_workers import containers
from statsvc_workers.formats import FORMATS, extension
from statsvc_workers.samples.kinds import MARKS, is_container
from statsvc_workers.samples.members import Member
from statsvc_workers.sources.listing_errors import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from statsvc.dataset.counting_rule import Counting
    from statsvc_workers.samples.object_reader import ObjectReader
    from statsvc_workers.samples.stamps import Stamp


class RemoteListing(Struct):
    """The samples below a URL.

    stamps       path → stamp
    unreadable, members, class_names  as in `statsvc_workers.sources.listing.Listing`
    unmatched    a few paths that do not match the pattern
    """

    stamps: dict[str, Stamp] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    unmatched: list[str] = field(default_factory=list)


def split_location(url: str) -> tuple[str, str]:
    """Return (URL of the folder, ""); for one file or Zarr array, (URL of its folder, its name).

    Raises `SourceError` where nothing exists at the URL or a request fails.
    """
    with _source_errors(url):
        if not object_urls.is_listable(url):
            root, name = object_urls.parent(url)
            # A web server may answer for a folder too, with an HTML page, so only known extensions count.
            readable = extension(name) in FORMATS or is_container(name)
            objects = _zarr_or_file(_bucket(root), name)
            if not objects or (name in objects and not readable):
                raise SourceError(
                    f"{url}: a web server cannot list files, and it has no file or Zarr array of this "
                    "name. Pass the URL of a file, such as a tar, Parquet or COCO JSON file, or use the "
                    "object store's own URL (s3://, gs://, az://)"
                )
            return root, name
        bucket = _bucket(url)
        if next(bucket.list(), None) is None:
            try:
                root, name = object_urls.parent(url)
                _bucket(root).head(name)
            except (SourceError, FileNotFoundError):
                raise SourceError(f"{url} does not exist; check the bucket and the prefix") from None
            return root, name
        if bucket.heads(sorted(MARKS)):
            return object_urls.parent(url)
    return url, ""


def check_not_emptied(root: str) -> None:
    """Raise `SourceError` where a URL can no longer be listed, or no longer contains any object."""
    with _source_errors(root):
        if object_urls.is_listable(root) and next(_bucket(root).list(), None) is None:
            raise SourceError(
                f"{root} was emptied during the scan. The rows counted so far are kept; restore the files "
                "and scan again"
            )


def walk_objects(root: str) -> list[str]:
    """Return the paths below a URL as `walk` does for a folder: a Zarr array is one path that ends in "/"."""
    with _source_errors(root):
        return _sample_paths(dict(_bucket(root).list()))


def list_objects(
    root: str, pattern: str, matches: Callable[[str], bool], counting: Counting
) -> RemoteListing:
    """Return the samples below a URL that match. Raises `SourceError` for any request that fails."""
    with _source_errors(root):
        bucket = _bucket(root)
        if object_urls.is_listable(root):
            stamps = dict(bucket.list())
        else:
            # The pattern of a single file is its escaped name.
            stamps = _zarr_or_file(bucket, re.sub(r"\\(.)", r"\1", pattern.removeprefix("/")))
        return _list_matching(bucket, stamps, matches, counting)


def _list_matching(
    bucket: ObjectReader, stamps: dict[str, Stamp], matches: Callable[[str], bool], counting: Counting
) -> RemoteListing:
    listing = RemoteListing()
    names = _sample_paths(stamps)
    objects_of = _objects_by_folder(stamps, [name for name in names if name.endswith("/")])
    for name in names:
        path = name.rstrip("/")
        if not matches(path):
            if len(listing.unmatched) < EXAMPLES:
                listing.unmatched.append(path)
            continue
        stamp = stamps[path] if path == name else _combined(objects_of[name])
        try:
            if counting.rows != "array" and not is_container(path):
                members = containers.list_array_rows(bucket.root, path, counting)
            elif path != name:
                members = [_zarr_member(bucket, path, counting)]
            elif is_container(path):
                contents = containers.list_container(bucket.root, path, counting.key)
                listing.class_names = listing.class_names or contents.class_names
                members = contents.members
            else:
                listing.stamps[path] = stamp
                continue
        except UnreadableSample as error:
            listing.stamps[path], listing.unreadable[path] = stamp, str(error)
            continue
        _add_members(bucket, path, members, stamps, stamp, listing)
    return listing


def _add_members(
    bucket: ObjectReader,
    path: str,
    members: list[Member],
    stamps: dict[str, Stamp],
    path_stamp: Stamp,
    listing: RemoteListing,
) -> None:
    """Add the members of a container, or the rows of an array, with their stamps."""
    if not object_urls.is_listable(bucket.root):
        needed = {file for member in members for file in member.files}
        needed |= {member.file for member in members if not member.in_folder}
        stamps |= bucket.heads(sorted(needed - stamps.keys()))
    for listed_member in members:
        member = listed_member
        files = member.files if member.in_folder else (member.file, *member.files)
        existing = [(file, stamps[file]) for file in files if file in stamps]
        stamp = path_stamp if member.kind == "zarr" and not files else _combined(existing)
        if not member.in_folder:
            etag = stamps[path].etag
            member = replace(member, etag=etag, listed=None if etag else stamp.fingerprint)
            if member.file not in stamps:
                listing.unreadable[member.path] = f"is listed in {path}, but missing; complete the folder"
        listing.stamps[member.path], listing.members[member.path] = stamp, member


def _zarr_member(bucket: ObjectReader, path: str, counting: Counting) -> Member:
    """Return a Zarr array as one sample; where objects cannot be listed, with all files it may have."""
    if object_urls.is_listable(bucket.root):
        return Member(path, path, "zarr")
    rows = containers.list_array_rows(bucket.root, path, replace(counting, rows="chunk"))
    files = dict.fromkeys(file for row in rows for file in row.files)
    return Member(path, path, "zarr", None, sum(row.length for row in rows), tuple(files))


def _sample_paths(stamps: Mapping[str, Stamp]) -> list[str]:
    """Return the paths of files and, ending in "/", of Zarr folders; skip names that begin with a dot."""
    zarr_folders = {path.rpartition("/")[0] for path in stamps if path.rpartition("/")[2] in MARKS} - {""}
    names = set()
    for path, stamp in stamps.items():
        zarr_folder = _outermost_parent(path, zarr_folders) if zarr_folders else None
        if zarr_folder is not None:
            if not _is_hidden(zarr_folder):
                names.add(zarr_folder + "/")
            continue
        # Web consoles create an empty object "folder/" for a folder, which is listed without its "/".
        if stamp.size == 0 and "." not in path.rpartition("/")[2]:
            continue
        if not _is_hidden(path):
            names.add(path)
    return sorted(names)


def _outermost_parent(path: str, folders: set[str]) -> str | None:
    """Return the outermost of `folders` that contains a path."""
    parts = path.split("/")
    parents = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((parent for parent in parents if parent in folders), None)


def _is_hidden(path: str) -> bool:
    return path.startswith(".") or "/." in path


def _objects_by_folder(
    stamps: Mapping[str, Stamp], folders: Sequence[str]
) -> dict[str, list[tuple[str, Stamp]]]:
    """Return the objects below each folder, both in the order given."""
    objects_of: dict[str, list[tuple[str, Stamp]]] = {folder: [] for folder in folders}
    if folders:
        for path, stamp in stamps.items():
            parts = path.split("/")
            for depth in range(1, len(parts)):
                if (objects := objects_of.get("/".join(parts[:depth]) + "/")) is not None:
                    objects.append((path, stamp))
                    break
    return objects_of


def _zarr_or_file(bucket: ObjectReader, name: str) -> dict[str, Stamp]:
    """Return the metadata objects of the Zarr array of this name, or the file of this name, if they exist."""
    return dict(bucket.heads([f"{name}/{mark}" for mark in sorted(MARKS)])) or dict(bucket.heads([name]))


def _combined(objects: Sequence[tuple[str, Stamp]]) -> Stamp:
    from statsvc_workers.samples.object_store import combined_objects

    return combined_objects(objects)


def _bucket(root: str) -> ObjectReader:
    from statsvc_workers.samples.object_store import bucket

    return bucket(root)


@contextmanager
def _source_errors(url: str) -> Iterator[None]:
    """Raise the failure of a request as `SourceError`."""
    from statsvc_workers.samples.object_reader import Unreachable

    try:
        yield
    except SourceError:
        raise
    except Unreachable as error:
        raise SourceError(f"{error.strerror}. Nothing was changed. Fix the problem and scan again") from error
    except OSError as error:
        raise SourceError(
            f"{url} cannot be listed: {error.filename}: {error.strerror}; scan again when its files no "
            "longer change"
        ) from error
