"""MetaImage volumes in two files: a header, `.mhd`, names the file with the voxels, `.raw` or `.zraw`.

The voxels belong to the fingerprint of the sample, and are opened as any other file: below the roots only.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from statsvc.common.object_urls import is_url
from statsvc.errors import UnreadableSample
from statsvc_workers.containers.contents import Contents
from statsvc_workers.formats.metaimage import data_file
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import exists, open_bytes


def list_members(root: str, path: str, _key: str | None) -> Contents:
    """Return the volume of a header as the only member, which has the name of the header.

    Raises `UnreadableSample` where the voxels are not in one file in the folder of the header, or below it.
    """
    if is_url(root):
        raise UnreadableSample(
            "has its voxels in another file, which is read from folders only; save as .mha"
        )
    with open_bytes(root, path) as file:
        name = data_file(file)
    if name is None:
        return Contents([Member(path, path, "metaimage")])
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or not name.isprintable():
        raise UnreadableSample("names a file outside its own folder for the voxels; save it as one .mha file")
    voxels = str(PurePosixPath(path).parent / name)
    if not exists(root, voxels):
        raise UnreadableSample(f"names the file {name} for its voxels, which is missing; copy it, too")
    return Contents([Member(path, path, "metaimage", files=(voxels,))])
