"""Where state lives: one folder by default, or a database and a store of one's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from statsvc.store.versions import location


@dataclass(frozen=True, slots=True)
class Home:
    """The folder for everything that is kept, the catalog's URL and the place of versions."""

    folder: Path
    database: str
    store: location.Location


def resolve(home: str | None = None, database: str | None = None, store: str | None = None) -> Home:
    """Return the places given, or those of STATSVC_HOME, STATSVC_DATABASE, STATSVC_STORE, or the default.

    The default home is `$XDG_DATA_HOME/statsvc`, by itself `~/.local/share/statsvc`; catalog and
    versions lie in it unless moved. Raises `InvalidParameter` for a store that cannot be one.
    """
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    folder = Path(home or os.environ.get("STATSVC_HOME") or Path(data) / "statsvc").expanduser().absolute()
    url = database or os.environ.get("STATSVC_DATABASE") or f"sqlite:///{folder / 'catalog.sqlite'}"
    versions = store or os.environ.get("STATSVC_STORE") or str(folder / "versions")
    return Home(folder, url, location.at(versions))
