"""Reader digest: identifies how a row was counted. Rows are reused only if it is equal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import xxhash

from statsvc.dataset.counting_rule import ARITHMETIC, Counting
from statsvc_workers.samples.revision import REVISION

if TYPE_CHECKING:
    from collections.abc import Iterable

_EXTENSIONS = [
    *(".bmp", ".gif", ".h5", ".hdf5", ".nii", ".nii.gz"),
    *(".npy", ".npz", ".png", ".tif", ".tiff", ".webp"),
]
"""Part of every digest, so that rows which earlier releases counted keep theirs.

A format that is added later changes no row, because its files were no samples or could not be read.
"""

OBJECTS = 1
"""Revision of how objects are counted, where a source numbers them."""

_GIF = "gray palettes are gray values"
"""Part of the digest of a dataset with GIF files, whose rows had palette indices before."""


def has_gif(paths: Iterable[str]) -> bool:
    """Whether some of the samples are GIF files."""
    return any(path.lower().endswith(".gif") for path in paths)


def reader_digest(counting: Counting | None = None, pattern: str = "", *, gif: bool = False) -> str:
    """Return the digest of the counting rule and of the revision of the decoders.

    pattern  pattern of the source, which tells annotation files from label maps
    gif      whether some of the samples are GIF files
    """
    counting = counting or Counting()
    described = {"formats": _EXTENSIONS, "rule": counting.to_dict(), "revision": REVISION}
    if counting.rule in ARITHMETIC or ".json" in pattern.lower():
        described["objects"] = OBJECTS
    if gif:
        described["gif"] = _GIF
    return xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode())
