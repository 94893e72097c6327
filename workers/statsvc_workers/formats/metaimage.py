"""MetaImage label volumes, `.mha` and `.mhd`, decoded as a whole by SimpleITK.

SimpleITK reads only files that have a name, so it gets a temporary copy. A header may name another file for
the voxels, anywhere on the machine, so only headers whose voxels follow in the same file are given to it.
Format: https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import io
import math
import re
import tempfile
import zlib
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import (
    CHUNK_PIXELS,
    COPY_AGAIN,
    Format,
    LabelMap,
    Peek,
    check_pixels,
    color_coded,
    whole_numbers,
)
from statsvc_workers.formats.voxels import volume_map
from statsvc_workers.samples.members import SCAN_AGAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

NAME = "MetaImage volume"

FIRST_FIELDS = (b"ObjectType", b"NDims", b"Comment")
"""Fields with which a header begins."""

DATA = b"ElementDataFile"
"""The last field of a header, which says where the voxels are."""

LOCAL = re.compile(DATA + rb"[ \t]*=[ \t]*(?:LOCAL|Local|local)[ \t]*\r?\n")
"""The last field of a header whose voxels follow; MetaIO accepts these spellings."""

OTHER = re.compile(DATA + rb"[ \t]*=[ \t]*([^\r\n%]+?)[ \t]*\r?\n?\Z")
"""The last field of a header whose voxels are in another file."""

SEVERAL = re.compile(rb"LIST\b.*", re.IGNORECASE)
"""Names that mean: a file for each slice."""

COMPRESSED = re.compile(rb"^CompressedData[ \t]*=[ \t]*[Tt1]", re.MULTILINE)

ZLIB_OR_GZIP = 32 + 15
"""Argument of zlib for either format."""

MAX_HEADER_BYTES = 1 << 16
BLOCK = 1 << 20


def open_label_map(file: BinaryIO, _size: int, max_pixels: int, _key: str | None = None) -> LabelMap:
    """Read the header; a volume of (x, y, z) has width x and height y·z.

    Raises `UnreadableSample` for several values of a voxel, voxels in another file, values that are not whole
    numbers, and for a damaged file.
    """
    return volume_map(_checked(file, max_pixels), _chunks(file))


def data_file(file: BinaryIO) -> str | None:
    """Return the name of the file with the voxels that a header names; None if they follow the header.

    Raises `UnreadableSample` for a header that names several files, or skips bytes of a file.
    """
    head = file.read(MAX_HEADER_BYTES)
    if LOCAL.search(head):
        return None
    other = OTHER.search(head)
    if other is None or SEVERAL.fullmatch(other[1]) or head.count(DATA) > 1 or b"HeaderSize" in head:
        raise UnreadableSample(
            "is a header whose voxels are not in one file from its first byte on, or it is damaged; "
            "save it as one .mha file"
        )
    return other[1].decode(errors="replace")


def open_pair(file: BinaryIO, voxels: BinaryIO, max_pixels: int) -> LabelMap:
    """Read a header and the file with its voxels, as one file with both."""
    head = file.read(MAX_HEADER_BYTES)
    other = OTHER.search(head)
    if other is None:
        raise UnreadableSample(f"changed after it was listed; {SCAN_AGAIN}")
    local = head[: other.start()] + DATA + b" = LOCAL\n"
    shape = _checked(io.BytesIO(local), max_pixels)
    return volume_map(shape, _parts(_read(chain([local], iter(partial(voxels.read, BLOCK), b"")))))


def open_array(file: BinaryIO, _size: int, max_pixels: int, _key: str | None = None) -> NDArray[Any]:
    """Read a whole volume of numbers, (x, y, z)."""
    _checked(file, max_pixels)
    return _voxels(file).T


def peek(file: BinaryIO, _size: int) -> Peek:
    """Return what the header says."""
    shape, voxel_type, components = _header(file)
    sizes = " x ".join(map(str, shape))
    return Peek(f"MetaImage volume of {voxel_type}, {sizes}", components > 1)


FORMAT = Format(NAME, FIRST_FIELDS, open_label_map, peek, open_array=open_array)


def _checked(file: BinaryIO, max_pixels: int) -> tuple[int, ...]:
    """Return the shape (x, y, z). Raises `UnreadableSample` for voxels that cannot be class ids."""
    shape, _, components = _header(file)
    if components > 1:
        raise color_coded(f"{components} values for each voxel")
    check_pixels(math.prod(shape[1:]), shape[0], max_pixels)
    return shape


def _header(file: BinaryIO) -> tuple[tuple[int, ...], str, int]:
    """Return the shape (x, y, z), the type and the number of values of a voxel."""
    file.seek(0)
    head = file.read(MAX_HEADER_BYTES)
    if not LOCAL.search(head):
        raise UnreadableSample(
            "stores its voxels in another file; save it as one .mha file"
            if DATA in head
            else f"is damaged: its header has no {DATA.decode()}; {COPY_AGAIN}"
        )
    if head.count(DATA) > 1:
        raise _twice()
    with _named([head]) as reader:
        import SimpleITK as sitk  # noqa: N813 - its documentation uses this name

        _run(reader.ReadImageInformation)
        voxel_type = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        return tuple(reader.GetSize()), voxel_type, reader.GetNumberOfComponents()


def _chunks(file: BinaryIO) -> Iterator[NDArray[Any]]:
    yield from _parts(_voxels(file))


def _parts(voxels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    values = voxels.reshape(-1)
    for start in range(0, len(values), CHUNK_PIXELS):
        chunk = values[start : start + CHUNK_PIXELS]
        yield whole_numbers(chunk) if chunk.dtype.kind == "f" else chunk


def _voxels(file: BinaryIO) -> NDArray[Any]:
    """Return the voxels [z, y, x]."""
    return _read(_blocks(file))


def _read(blocks: Iterable[bytes]) -> NDArray[Any]:
    """Return the voxels [z, y, x] of a file, of which the first block contains the header."""
    import SimpleITK as sitk  # noqa: N813

    inflated: list[int] = []
    with _named(_verified(blocks, inflated)) as reader:
        values: NDArray[Any] = sitk.GetArrayFromImage(_run(reader.Execute))
    if inflated and sum(inflated) != values.nbytes:
        raise UnreadableSample(
            f"is damaged: its voxels have {sum(inflated)} bytes instead of {values.nbytes}; {COPY_AGAIN}"
        )
    return values


def _verified(blocks: Iterable[bytes], inflated: list[int]) -> Iterator[bytes]:
    """Yield the blocks; append the bytes to which compressed voxels expand to `inflated`.

    SimpleITK ignores the checksum of compressed voxels, and fills up those that are missing.
    """
    inflater = None
    for number, block in enumerate(blocks):
        data = block
        if number == 0 and (end := LOCAL.search(block)):
            data = block[end.end() :]
            if COMPRESSED.search(block[: end.end()]):
                inflater = zlib.decompressobj(ZLIB_OR_GZIP)
        while inflater is not None and data and not inflater.eof:
            inflated.append(len(inflater.decompress(data, BLOCK)))
            data = inflater.unconsumed_tail
        yield block
    if inflater is not None:
        inflated.append(len(inflater.flush()))
        if not inflater.eof:
            raise UnreadableSample(f"is damaged or truncated inside its compressed voxels; {COPY_AGAIN}")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a file. Raises `UnreadableSample` for one with a second place for the voxels."""
    file.seek(0)
    found, last = 0, b""
    while block := file.read(BLOCK):
        found += (last + block).count(DATA)
        last = block[1 - len(DATA) :]
        if found > 1:
            raise _twice()
        yield block


def _twice() -> UnreadableSample:
    return UnreadableSample(f"is damaged: it has {DATA.decode()} twice; {COPY_AGAIN}")


def _run(function: Callable[[], Any]) -> Any:
    """Call SimpleITK, whose errors quote source files, addresses and the temporary copy."""
    try:
        return function()
    except RuntimeError:
        raise UnreadableSample(
            f"is damaged or truncated: SimpleITK cannot read it as a {NAME}; {COPY_AGAIN}"
        ) from None


@contextmanager
def _named(blocks: Iterable[bytes]) -> Iterator[Any]:
    """Return SimpleITK's reader of a temporary file with this content."""
    import SimpleITK as sitk  # noqa: N813

    with tempfile.TemporaryDirectory(prefix="statsvc-") as folder:
        path = Path(folder) / "volume.mha"
        with path.open("wb") as copy:
            for block in blocks:
                copy.write(block)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("MetaImageIO")
        reader.SetFileName(str(path))
        yield reader
