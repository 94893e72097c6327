"""Which samples lie below a URL: the same rules as for a folder tree, from one listing of the objects."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from statsvc.common import object_urls
from statsvc.errors import SourceError, UnreadableSample
from statsvc_workers import containers
from statsvc_workers.formats import FORMATS, extension
from statsvc_workers.formats.zarr_arrays import MARKS
from statsvc_workers.samples.members import Member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from statsvc.dataset.counting_rule import Counting
    from statsvc_workers.samples.object_store import Bucket
    from statsvc_workers.samples.open_sample import Stamp

EXAMPLES = 3


@dataclass(slots=True)
class Found:
    """The samples below a URL.

    stamps       path → stamp
    unreadable, members, class_names  as in `statsvc_workers.sources.sources.Listing`
    others       a few paths that the pattern leaves out
    """

    stamps: dict[str, Stamp] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    others: list[str] = field(default_factory=list)


def location(url: str) -> tuple[str, str]:
    """Return a folder's URL and "", or of one file or Zarr the URL of what it is in, and its name.

    Raises `SourceError` where nothing is there, or it cannot be asked.
    """
    with _asking(url):
        if not object_urls.is_listable(url):
            root, name = object_urls.parent(url)
            # A server answers for its folders, too, with a page.
            readable = extension(name) in FORMATS or containers.is_container(name)
            there = _named(_bucket(root), name)
            if not there or (name in there and not readable):
                raise SourceError(
                    f"{url}: a web server lists nothing, and there is no file or Zarr of this name; name "
                    "a file, such as a tar, Parquet or COCO JSON, or use the store's URL (s3://, gs://, az://)"
                )
            return root, name
        bucket = _bucket(url)
        if next(bucket.list(), None) is None:
            try:
                root, name = object_urls.parent(url)
                _bucket(root).head(name)
            except (SourceError, FileNotFoundError):
                raise SourceError(f"{url}: nothing is there; check the bucket and the prefix") from None
            return root, name
        if bucket.heads(sorted(MARKS)):
            return object_urls.parent(url)
    return url, ""


def still_there(root: str) -> None:
    """Raise `SourceError` where a URL that was listed cannot be listed any more, or nothing is left."""
    with _asking(root):
        if object_urls.is_listable(root) and next(_bucket(root).list(), None) is None:
            raise SourceError(f"{root} was emptied during the scan; what was counted so far is kept")


def walked(root: str) -> list[str]:
    """Return the paths below a URL as for a folder: no dot-names, a Zarr as one with "/" at its end."""
    with _asking(root):
        return _samples(dict(_bucket(root).list()))


def listed(root: str, pattern: str, matches: Callable[[str], bool], counting: Counting) -> Found:
    """Return the samples below a URL that match. Raises `SourceError` for any request that fails."""
    with _asking(root):
        bucket = _bucket(root)
        if object_urls.is_listable(root):
            stamps = dict(bucket.list())
        else:
            stamps = _named(bucket, re.sub(r"\\(.)", r"\1", pattern.removeprefix("/")))
        return _listed(bucket, stamps, matches, counting)


def _listed(
    bucket: Bucket, stamps: dict[str, Stamp], matches: Callable[[str], bool], counting: Counting
) -> Found:
    result = Found()
    names = _samples(stamps)
    inside = _inside(stamps, [name for name in names if name.endswith("/")])
    for name in names:
        path = name.rstrip("/")
        if not matches(path):
            if len(result.others) < EXAMPLES:
                result.others.append(path)
            continue
        own = stamps[path] if path == name else _folder(inside[name])
        try:
            if counting.rows != "array" and not containers.is_container(path):
                members = containers.parts(bucket.root, path, counting)
            elif path != name:
                members = [_whole(bucket, path, counting)]
            elif containers.is_container(path):
                contents = containers.listed(bucket.root, path, counting.key)
                result.class_names = result.class_names or contents.class_names
                members = contents.members
            else:
                result.stamps[path] = own
                continue
        except UnreadableSample as error:
            result.stamps[path], result.unreadable[path] = own, str(error)
            continue
        _take(bucket, path, members, stamps, own, result)
    return result


def _take(
    bucket: Bucket, path: str, members: list[Member], stamps: dict[str, Stamp], own: Stamp, result: Found
) -> None:
    """Add the members of a container, or the parts of an array, with their stamps."""
    from statsvc_workers.samples.object_store import together

    if not object_urls.is_listable(bucket.root):
        needed = {file for member in members for file in (member.file, *member.files)}
        stamps |= bucket.heads(sorted(needed - stamps.keys()))
    for member in members:
        files = member.files if member.in_folder else (member.file, *member.files)
        there = [(file, stamps[file]) for file in files if file in stamps]
        stamp = own if member.kind == "zarr" and not files else together(there)
        if not member.in_folder:
            told = stamps[path].etag
            member = replace(member, etag=told, listed=None if told else stamp.fingerprint)  # noqa: PLW2901
            if member.file not in stamps:
                result.unreadable[member.path] = f"is named in {path}, but is not there; complete the folder"
        result.stamps[member.path], result.members[member.path] = stamp, member


def _whole(bucket: Bucket, path: str, counting: Counting) -> Member:
    """Return a Zarr as one sample; where nothing can be listed, with the files that it may have."""
    if object_urls.is_listable(bucket.root):
        return Member(path, path, "zarr")
    parts = containers.parts(bucket.root, path, replace(counting, rows="chunk"))
    files = dict.fromkeys(file for part in parts for file in part.files)
    return Member(path, path, "zarr", None, sum(part.length for part in parts), tuple(files))


def _samples(stamps: Mapping[str, Stamp]) -> list[str]:
    """Return files and Zarr folders, these with "/" at their end, without dot-names."""
    marked = {path.rpartition("/")[0] for path in stamps if path.rpartition("/")[2] in MARKS} - {""}
    names = set()
    for path, stamp in stamps.items():
        folders = path.split("/")[:-1]
        if marked:
            inner = next(
                (
                    "/".join(folders[:k])
                    for k in range(1, len(folders) + 1)
                    if "/".join(folders[:k]) in marked
                ),
                None,
            )
            if inner is not None:
                if not inner.startswith(".") and "/." not in inner:
                    names.add(inner + "/")
                continue
        # Consoles mark a folder by an empty object "folder/", which is listed without its "/".
        if stamp.size == 0 and "." not in path.rpartition("/")[2]:
            continue
        if not path.startswith(".") and "/." not in path:
            names.add(path)
    return sorted(names)


def _inside(stamps: Mapping[str, Stamp], folders: Sequence[str]) -> dict[str, list[tuple[str, Stamp]]]:
    """Return the objects in each folder, both as lists of names would sort."""
    found: dict[str, list[tuple[str, Stamp]]] = {folder: [] for folder in folders}
    if folders:
        for path, stamp in stamps.items():
            parts = path.split("/")
            for k in range(1, len(parts)):
                if (objects_of := found.get("/".join(parts[:k]) + "/")) is not None:
                    objects_of.append((path, stamp))
                    break
    return found


def _folder(inside: list[tuple[str, Stamp]]) -> Stamp:
    from statsvc_workers.samples.object_store import together

    return together(inside)


def _named(bucket: Bucket, name: str) -> dict[str, Stamp]:
    """Return what marks the Zarr of that name, or the file; servers answer for folders, too."""
    return dict(bucket.heads([f"{name}/{mark}" for mark in sorted(MARKS)])) or dict(bucket.heads([name]))


def _bucket(root: str) -> Bucket:
    from statsvc_workers.samples.object_store import bucket

    return bucket(root)


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Raise a request's failure as `SourceError`."""
    from statsvc_workers.samples.object_store import Unreachable

    try:
        yield
    except SourceError:
        raise
    except Unreachable as error:
        raise SourceError(f"{error.strerror}; nothing was changed, mend it and scan again") from error
    except OSError as error:
        raise SourceError(
            f"{url} cannot be listed: {error.filename}: {error.strerror}; scan again when it is at rest"
        ) from error
