"""The attributes of a group describe what is published in it. They are written last, before publication."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from statsvc.store.versions.arrays import ATTRIBUTES
from statsvc.store.versions.stored_bytes import METADATA

if TYPE_CHECKING:
    from statsvc.store.versions.location import Location

IMPORT_PREFIX = "import-"
"""Begin of the names of the groups of imports."""


def group_attributes(group: Location) -> dict[str, Any]:
    """Return a group's attributes. Raises `OSError`, `ValueError`, `KeyError` or `StoreError`."""
    metadata = json.loads((group / METADATA).read())
    values: dict[str, Any] = metadata["attributes"][ATTRIBUTES]
    return values


def is_unfinished_import(group: Location) -> bool:
    """Whether an import is still writing a group, or was killed: its attributes are written at the end.

    If it is the first import of a dataset, no catalog contains the dataset, because it is created after that.
    """
    if not group.name.startswith(IMPORT_PREFIX):
        return False
    try:
        return not group_attributes(group)
    except (OSError, ValueError, KeyError):  # damaged, but perhaps a version
        return False
