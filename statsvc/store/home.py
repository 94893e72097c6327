"""Where statsvc keeps its state: one folder by default, or a separate database and version store."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from statsvc.errors import CatalogError, InvalidParameter, StoreError
from statsvc.store.versions.open_location import open_location

if TYPE_CHECKING:
    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.versions.location import Location

_UID = re.compile(r"[0-9a-f]{32}")
"""Names of the folders of datasets in a version store."""


class Home(Struct, frozen=True):
    """The home directory, the catalog's database URL, and the version store."""

    folder: Path
    database: str
    store: Location

    def open_catalog(self) -> Catalog:
        """Open the catalog. Raises `CatalogError`, also if it was lost: empty, next to existing versions."""
        from statsvc.store.catalog.catalog import Catalog
        from statsvc.store.catalog.engine import sqlite_file

        file = sqlite_file(self.database)
        if file is not None and not file.exists():
            self._check_no_versions()  # before an empty catalog is created
        catalog = Catalog.open(self.database)
        try:
            with catalog.read() as connection:
                is_empty = connection.scalar("SELECT uid FROM datasets LIMIT 1") is None
            if is_empty:
                self._check_no_versions()
        except BaseException:
            catalog.close()
            raise
        return catalog

    def _check_no_versions(self) -> None:
        """Raise `CatalogError` if the version store contains versions, which an empty catalog would hide."""
        from statsvc.store.versions.location import CHECKPOINTS

        with contextlib.suppress(StoreError):  # whoever uses the store reports that it does not respond
            for folder in self.store.folders():
                if not _UID.fullmatch(folder.name):
                    continue
                from statsvc.store.versions.attributes import is_unfinished_import

                groups = (group for group in folder.folders() if group.name != CHECKPOINTS)
                if not all(map(is_unfinished_import, groups)):
                    raise CatalogError(
                        f"the catalog {without_password(self.database)} is empty, but {self.store} contains "
                        "versions, so the catalog was lost, or --database or --store is wrong. Restore the "
                        "catalog from a backup, or create it again from the versions, with the same "
                        "--database and --store if you use them: "
                        f"statsvc rebuild --home {shlex.quote(str(self.folder))}"
                    )


def without_password(url: str) -> str:
    """Return a database URL without the password that it contains, if any."""
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)((?:password|passfile|sslpassword)=)[^&]*", r"\1***", url)


def resolve(home: str | None = None, database: str | None = None, store: str | None = None) -> Home:
    """Return where state is kept.

    An argument that is None defaults to STATSVC_HOME, STATSVC_DATABASE or STATSVC_STORE.
    The default home directory is `$XDG_DATA_HOME/statsvc`, or `~/.local/share/statsvc` if that is unset. By
    default the catalog and the version store are in the home directory. Raises `InvalidParameter` for a
    malformed address of the version store, and if the user has no home directory for the default.
    """
    home_folder = folder(home or os.environ.get("STATSVC_HOME") or None)
    url = database or os.environ.get("STATSVC_DATABASE") or f"sqlite:///{home_folder / 'catalog.sqlite'}"
    address = store or os.environ.get("STATSVC_STORE") or str(home_folder / "versions")
    return Home(home_folder, url, open_location(address))


def folder(given: str | None) -> Path:
    """Return the home directory: the given one, or the default."""
    data = os.environ.get("XDG_DATA_HOME")
    try:
        if given is not None:
            return Path(given).expanduser().absolute()
        return (Path(data) if data else Path("~/.local/share").expanduser()).absolute() / "statsvc"
    except RuntimeError:
        raise InvalidParameter(
            ("home", "this user has no home directory; name a folder with --home or STATSVC_HOME")
        ) from None
