"""The folders and URLs below which files are opened, enforced when a file is opened.

A server must not read for a client what the client cannot read. Whoever may write below a root can replace a
file or folder there by a symbolic link, also between a check and the opening. Hence each file is opened
first, and then the real path of the open descriptor is compared with the roots. On Linux the descriptor is
opened with O_PATH, so that nothing outside the roots is opened for reading, and no device or pipe is touched.

Without `restricted`, links are followed wherever they lead: a local scan reads with its owner's permissions.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from statsvc.common.object_urls import is_below, is_url
from statsvc.errors import SourceError, UnreadableSample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PATH_ONLY = getattr(os, "O_PATH", None)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)

_roots: ContextVar[tuple[str, ...] | None] = ContextVar("roots", default=None)


class OutsideRoots(UnreadableSample):
    """A file or folder is outside the roots. The message says nothing about what is there."""


@contextmanager
def restricted(roots: Sequence[str] | None) -> Iterator[None]:
    """Open only files below `roots` in this context: real paths of folders, and normalized URLs.

    None lifts the restriction. A new thread starts without it.
    """
    token = _roots.set(None if roots is None else tuple(roots))
    try:
        yield
    finally:
        _roots.reset(token)


def current_roots() -> tuple[str, ...] | None:
    """Return the roots of this context; None without a restriction."""
    return _roots.get()


def open_descriptor(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file or folder without waiting for a pipe's writer.

    Raises `OSError`, and `OutsideRoots`.
    """
    roots = _roots.get()
    if roots is None:
        return os.open(path, flags | _NONBLOCK)
    if _PATH_ONLY is None:
        return _checked(os.open(path, flags | _NONBLOCK), path, roots)
    pinned = _open_path(path, roots)
    try:
        # The same file, whatever has happened to the path in the meantime.
        return os.open(f"/proc/self/fd/{pinned}", flags | _NONBLOCK)
    finally:
        os.close(pinned)


def status(path: str, *, follow_symlinks: bool = True) -> os.stat_result:
    """Return the status of a file or folder.

    Raises `OSError`, and `OutsideRoots`.
    """
    roots = _roots.get()
    if roots is None:
        return os.stat(path, follow_symlinks=follow_symlinks)  # noqa: PTH116 - pathlib is slow
    pinned = _open_path(path, roots, 0 if follow_symlinks else os.O_NOFOLLOW)
    try:
        return os.fstat(pinned)
    finally:
        os.close(pinned)


def is_allowed_url(url: str) -> bool:
    """Whether a URL, as `object_urls.join` returns it, is below a root."""
    roots = _roots.get()
    return roots is None or any(is_url(root) and is_below(url, root) for root in roots)


def check_url(url: str) -> None:
    """Raise `OutsideRoots` for a URL that is outside the roots."""
    if not is_allowed_url(url):
        raise OutsideRoots(
            f"is outside the folders and URLs that may be read ({_listed(_roots.get() or ())})"
        )


def leads_to_root(path: str) -> list[str]:
    """Return the names in a folder through which a root below it is reached."""
    real = os.path.realpath(path)
    prefix = real.rstrip("/") + "/"
    return sorted(
        {
            root.removeprefix(prefix).partition("/")[0]
            for root in _roots.get() or ()
            if not is_url(root) and root.startswith(prefix)
        }
    )


def urls_below(url: str) -> list[str]:
    """Return the roots below a URL that is itself outside the roots; [] without a restriction."""
    urls = [root for root in _roots.get() or () if is_url(root)]
    if any(is_below(url, root) for root in urls):
        return []
    return [root for root in urls if is_below(root, url)]


def source_roots(source: str, roots: Sequence[str] | None, *, only: bool) -> tuple[str, ...] | None:
    """Return the roots for reading a registered source, for `restricted`; None without a restriction.

    roots  folders and normalized URLs of the server or runner; None for no restriction
    only   whether sources outside `roots` are refused; otherwise each may be read below itself, if its path
           contains no symbolic link

    Raises `SourceError` for a source that must not be read.
    """
    if roots is None:
        return None
    allowed = tuple(root if is_url(root) else os.path.realpath(root) for root in roots)
    if is_url(source):
        if any(is_url(root) and (is_below(source, root) or is_below(root, source)) for root in allowed):
            return allowed
        if not only:
            return (source,)
        raise _refused(source, allowed, "URL")
    real = os.path.realpath(source)
    folders = [root for root in allowed if not is_url(root)]
    # The source of a single Zarr folder is its parent, which may be above the root.
    if any(is_inside(real, root) or (only and is_inside(root, real)) for root in folders):
        return allowed
    if only:
        raise _refused(source, allowed, "FOLDER")
    if real != source:
        raise SourceError(
            f"the path {source} contains a symbolic link, and leads outside the folders that may be read "
            f"({_listed(allowed)}). Allow the folder that it leads to: start the server or runner with "
            "--root FOLDER, or scan it with statsvc scan"
        )
    return (real,)


def _refused(source: str, roots: Sequence[str], metavar: str) -> SourceError:
    real = "" if is_url(source) or os.path.realpath(source) == source else " through a symbolic link"
    return SourceError(
        f"{source} is{real} outside the folders and URLs that may be read ({_listed(roots)}); allow another "
        f"one by starting the server or runner with --root {metavar}"
    )


def _open_path(path: str, roots: Sequence[str], flags: int = 0) -> int:
    """Return a descriptor that identifies a file inside the roots, without opening its contents."""
    try:
        descriptor = os.open(path, flags | (_NONBLOCK if _PATH_ONLY is None else _PATH_ONLY))
    except OSError:
        # Whether something exists outside the roots must not be visible.
        if not any(not is_url(root) and is_inside(os.path.realpath(path), root) for root in roots):
            raise _outside(roots) from None
        raise
    return _checked(descriptor, path, roots)


def _checked(descriptor: int, path: str, roots: Sequence[str]) -> int:
    """Return the descriptor if its file is inside the roots; otherwise close it, and raise `OutsideRoots`."""
    try:
        real = _real_path(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise OSError(error.errno, error.strerror, path) from error
    if any(not is_url(root) and is_inside(real, root) for root in roots):
        return descriptor
    os.close(descriptor)
    raise _outside(roots)


def _real_path(descriptor: int) -> str:
    """Return the path of an open file as the kernel knows it."""
    if sys.platform == "darwin":
        import fcntl

        return os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - Path would normalize it


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is a folder, or below it; both without links."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _outside(roots: Sequence[str]) -> OutsideRoots:
    return OutsideRoots(
        f"leads through a symbolic link outside the folders that may be read ({_listed(roots)}); remove the "
        "link, or allow its target: start the server or runner with --root FOLDER"
    )


def _listed(roots: Sequence[str]) -> str:
    return ", ".join(roots) or "none"
