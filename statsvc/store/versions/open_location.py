"""Choose the kind of version store from its address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.common import object_urls
from statsvc.errors import InvalidParameter, SourceError
from statsvc.store.versions.folder import FolderLocation

if TYPE_CHECKING:
    from statsvc.store.versions.location import Location

WRITABLE_SCHEMES = ("s3", "gs", "az")
"""URL schemes of the object stores that can hold versions."""


def open_location(address: str) -> Location:
    """Return the version store at a folder's path or a bucket's URL; nothing is read yet.

    Raises `InvalidParameter` for a URL that does not name a bucket, or that contains a password.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        return FolderLocation(Path(address).expanduser().absolute())
    if scheme not in WRITABLE_SCHEMES:
        raise InvalidParameter(
            (
                "store",
                f"a version store cannot use {scheme}://; use a folder, or s3://, gs:// or az://bucket/prefix",
            )
        )
    from statsvc.store.versions.bucket import BucketLocation  # most stores are folders

    try:
        return BucketLocation.at(object_urls.normalized(address))
    except SourceError as error:
        raise InvalidParameter(("store", str(error))) from None
