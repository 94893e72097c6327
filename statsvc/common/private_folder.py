"""Folders that only their owner can enter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def create_private_folder(folder: Path) -> None:
    """Create a folder with permissions 0700; an existing one keeps its permissions. Raises `OSError`."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
