"""Where statsvc keeps its state: one folder by default, or a separate database and version store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.store.versions.open_location import open_location

if TYPE_CHECKING:
    from statsvc.store.versions.location import Location


@dataclass(frozen=True, slots=True)
class Home:
    """The home directory, the catalog's database URL, and the version store."""

    folder: Path
    database: str
    store: Location


def resolve(home: str | None = None, database: str | None = None, store: str | None = None) -> Home:
    """Return where state is kept.

    An argument that is None defaults to STATSVC_HOME, STATSVC_DATABASE or STATSVC_STORE.
    The default home directory is `$XDG_DATA_HOME/statsvc`, or `~/.local/share/statsvc` if that is unset. By
    default the catalog and the version store are in the home directory. Raises `InvalidParameter` for a
    malformed address of the version store.
    """
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    folder = Path(home or os.environ.get("STATSVC_HOME") or Path(data) / "statsvc").expanduser().absolute()
    url = database or os.environ.get("STATSVC_DATABASE") or f"sqlite:///{folder / 'catalog.sqlite'}"
    address = store or os.environ.get("STATSVC_STORE") or str(folder / "versions")
    return Home(folder, url, open_location(address))
