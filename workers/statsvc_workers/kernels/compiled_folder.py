"""The folder in which compiled loops are kept."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def compiled_folder() -> Path | None:
    """Return a folder for compiled code: in the user's cache folder, or else in the temporary folder.

    None if neither can be written to.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    temporary = Path(tempfile.gettempdir()) / f"statsvc-compiled-{os.geteuid()}"
    for folder in (Path(cache) / "statsvc" / "compiled", temporary):
        if folder.is_absolute() and _is_usable(folder, private=folder == temporary):
            return folder
    return None


def _is_usable(folder: Path, *, private: bool) -> bool:
    """Whether files can be created in a folder, and with `private`, by this user only.

    The folder contains machine code, so one that another user prepared must not be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat(follow_symlinks=False)
        if private and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def warn_uncached() -> None:
    """Log once per process that compiled code is not stored."""
    log.warning(
        "Every process compiles the counting loops again, because no folder for compiled code is writable. "
        "Set NUMBA_CACHE_DIR"
    )
