"""What the name of a file or folder says about the samples in it; nothing is loaded that reads them."""

from __future__ import annotations

MARKS = frozenset({".zarray", ".zgroup", "zarr.json"})
"""A folder that contains one of these files is a Zarr array or group."""

CONTAINERS = (".tar", ".parquet", ".json", ".mhd")
"""Extensions of containers: one file that contains many label maps."""

DETECTED = (".tar", ".parquet")
"""Extensions of files that are always containers; others are read only if a pattern matches them."""


def is_container(path: str, extensions: tuple[str, ...] = CONTAINERS) -> bool:
    """Whether a path has the extension of a container."""
    return path.lower().endswith(extensions)
