"""Parquet files with pictures in a column, as the Hugging Face Hub lays datasets out, read with pyarrow.

A column holds bytes, or structs of `bytes` and `path`. Which column is the label map, `key` says, or the only
one that is no JPEG. A worker holds one row group's column at a time.
Format: https://huggingface.co/docs/hub/datasets-image.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import COPY_AGAIN, looks_like
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import reading

if TYPE_CHECKING:
    from statsvc_workers.samples.open_sample import Stamp

MOST_BYTES = 1 << 30
"""Largest column of a row group that is read, uncompressed."""

MAGICS = {
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

_held = threading.local()


def listed(root: str, path: str, key: str | None) -> tuple[list[Member], tuple[str, ...]]:
    """Return the rows of a Parquet file as samples named by their number. Raises `UnreadableSample`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(root, path) as file:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableSample(f"is no Parquet file, or is damaged ({error}); {COPY_AGAIN}") from None
        column = _column(table, key)
        total, groups = table.metadata.num_rows, table.metadata
        digits = len(str(max(0, total - 1)))
        members, number = [], 0
        for group in range(groups.num_row_groups):
            size = _column_bytes(groups.row_group(group), column)
            rows = groups.row_group(group).num_rows
            for row in range(rows):
                name = f"{path}/{number:0{digits}d}"
                members.append(Member(name, path, "row", (column, group, row), size // max(1, rows)))
                number += 1
    return members, ()


def named(file: BinaryIO) -> str:
    """Return a file name whose extension is that of the content. Raises `UnreadableSample`."""
    head = file.read(64)
    file.seek(0)
    for magic, name in MAGICS.items():
        if head.startswith(magic):
            return name
    raise UnreadableSample(f"is no label map: it {looks_like(head)}")


def value(file: BinaryIO, member: Member, stamp: Stamp) -> bytes:
    """Return the bytes of a row. Raises `UnreadableSample`."""
    import pyarrow as pa

    column, group, row = member.where
    wanted = (stamp, member.file, column, group)
    if getattr(_held, "of", None) != wanted:
        _held.of, _held.values = None, None
        try:
            _held.values = _values(file, column, group)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableSample(f"cannot be read from its Parquet file ({error}); {COPY_AGAIN}") from None
        _held.of = wanted
    item = _held.values[row].as_py()
    data = item.get("bytes") if isinstance(item, dict) else item
    if not data:
        raise UnreadableSample(f"holds no bytes in the column {column!r}; pictures elsewhere are not read")
    return bytes(data)


def _values(file: BinaryIO, column: str, group: int) -> Any:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    size = _column_bytes(table.metadata.row_group(group), column)
    if size > MOST_BYTES:
        raise UnreadableSample(
            f"lies in a row group of {size} bytes, over the limit of {MOST_BYTES}; write smaller row groups"
        )
    return table.read_row_group(group, columns=[column], use_threads=False)[column]


def _column_bytes(group: Any, column: str) -> int:
    """Return the uncompressed bytes of a column, its fields included."""
    own = (group.column(k) for k in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in own if c.path_in_schema.split(".")[0] == column)


def _column(table: Any, key: str | None) -> str:
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    columns = [field.name for field in table.schema_arrow if holds_bytes(field.type)]
    if key is not None:
        if key not in columns:
            there = ", ".join(columns) or "none"
            raise UnreadableSample(f"has no column {key!r} of pictures, only {there}; choose one with --key")
        return key
    meant = [column for column in columns if not _is_jpeg(table, column)]
    if len(meant) != 1:
        there = ", ".join(meant or columns) or "none"
        raise UnreadableSample(f"has several or no columns of label maps ({there}); choose one with --key")
    return str(meant[0])


def _is_jpeg(table: Any, column: str) -> bool:
    """Whether a column's first picture is a JPEG."""
    for batch in table.iter_batches(batch_size=1, columns=[column], use_threads=False):
        item = batch.column(0)[0].as_py()
        data = item.get("bytes") if isinstance(item, dict) else item
        return bool(data and data[:3] == b"\xff\xd8\xff")
    return False
