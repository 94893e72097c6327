"""Parquet files with images in a column, as used by the Hugging Face Hub, read with pyarrow.

A column contains bytes, or structs of `bytes` and `path`. The label maps are in the column `key`, or else in
the only column whose images are not JPEG. A worker keeps the column of one row group in memory.
Format: https://huggingface.co/docs/hub/datasets-image.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from statsvc.errors import UnreadableSample
from statsvc_workers.containers.contents import Contents
from statsvc_workers.formats.base import COPY_AGAIN
from statsvc_workers.formats.magic import describe_content
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import open_bytes

if TYPE_CHECKING:
    from statsvc_workers.samples.stamps import Stamp

MAX_ROWS = 1 << 20
"""Most rows of a file: each is a sample in memory, and a page of a few bytes can claim millions."""

MAX_COLUMN_BYTES = 1 << 30
"""Largest uncompressed column of a row group that is read."""

NAMES_BY_MAGIC = {
    b"\x89PNG": "x.png",
    b"II*\0": "x.tif",
    b"MM\0*": "x.tif",
    b"II+\0": "x.tif",
    b"MM\0+": "x.tif",
    b"\x93NUM": "x.npy",
    b"BM": "x.bmp",
    b"GIF8": "x.gif",
    b"RIFF": "x.webp",
    b"\x1f\x8b": "x.nii.gz",
}

_cache = threading.local()
"""The last column that this thread read: `key` identifies it, `values` are its rows."""


def list_members(root: str, path: str, key: str | None) -> Contents:
    """Return the rows of a Parquet file as samples, named by row number. Raises `UnreadableSample`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_bytes(root, path) as file:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableSample(f"is not a valid Parquet file ({error}); {COPY_AGAIN}") from None
        column = _labels_column(table, key)
        metadata = table.metadata
        if metadata.num_rows > MAX_ROWS:
            raise UnreadableSample(
                f"has {metadata.num_rows} rows, more than the limit of {MAX_ROWS}; write several files"
            )
        digits = len(str(max(0, metadata.num_rows - 1)))
        members, number = [], 0
        for group in range(metadata.num_row_groups):
            size = _column_bytes(metadata.row_group(group), column)
            rows = metadata.row_group(group).num_rows
            for row in range(rows):
                name = f"{path}/{number:0{digits}d}"
                members.append(Member(name, path, "row", (column, group, row), size // max(1, rows)))
                number += 1
    return Contents(members)


def name_by_content(file: BinaryIO) -> str:
    """Return a file name with the extension of the content's format. Raises `UnreadableSample`."""
    head = file.read(64)
    file.seek(0)
    for magic, name in NAMES_BY_MAGIC.items():
        if head.startswith(magic):
            return name
    raise UnreadableSample(f"is not a label map: it {describe_content(head)}")


def value(file: BinaryIO, member: Member, stamp: Stamp) -> bytes:
    """Return the bytes of a row. Raises `UnreadableSample`."""
    import pyarrow as pa

    column, group, row = member.where
    key = (stamp, member.file, column, group)
    if getattr(_cache, "key", None) != key:
        _cache.key, _cache.values = None, None
        try:
            _cache.values = _values(file, column, group)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableSample(f"cannot be read from its Parquet file ({error}); {COPY_AGAIN}") from None
        _cache.key = key
    item = _cache.values[row].as_py()
    data = item.get("bytes") if isinstance(item, dict) else item
    if not data:
        raise UnreadableSample(
            f"contains no bytes in the column {column!r}; images stored outside the file are not read"
        )
    return bytes(data)


def _values(file: BinaryIO, column: str, group: int) -> Any:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    _check_column_size(_column_bytes(table.metadata.row_group(group), column))
    return table.read_row_group(group, columns=[column], use_threads=False)[column]


def _check_column_size(size: int) -> None:
    if size > MAX_COLUMN_BYTES:
        raise UnreadableSample(
            f"is in a row group of {size} bytes, over the limit of {MAX_COLUMN_BYTES}; write smaller row "
            "groups"
        )


def _column_bytes(group: Any, column: str) -> int:
    """Return the uncompressed bytes of a column with all its fields."""
    fields = (group.column(k) for k in range(group.num_columns))
    return sum(f.total_uncompressed_size for f in fields if f.path_in_schema.split(".")[0] == column)


def _labels_column(table: Any, key: str | None) -> str:
    import pyarrow as pa

    def contains_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    columns = [field.name for field in table.schema_arrow if contains_bytes(field.type)]
    if key is not None:
        if key not in columns:
            names = ", ".join(columns) or "none"
            raise UnreadableSample(f"has no image column {key!r}, only {names}; choose one with --key")
        return key
    candidates = [column for column in columns if not _is_jpeg(table, column)]
    if len(candidates) != 1:
        names = ", ".join(candidates or columns) or "none"
        raise UnreadableSample(f"has several or no columns of label maps ({names}); choose one with --key")
    return str(candidates[0])


def _is_jpeg(table: Any, column: str) -> bool:
    """Whether the first image of a column is a JPEG. Raises `UnreadableSample`."""
    if table.metadata.num_row_groups:
        _check_column_size(_column_bytes(table.metadata.row_group(0), column))
    for batch in table.iter_batches(batch_size=1, columns=[column], use_threads=False):
        item = batch.column(0)[0].as_py()
        data = item.get("bytes") if isinstance(item, dict) else item
        return bool(data and data[:3] == b"\xff\xd8\xff")
    return False
