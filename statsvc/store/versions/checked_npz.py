"""NumPy archives in one file with a checksum: the xxh3_128 digest of the payload, then the npz payload."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGEST_BYTES = 16


def encode(arrays: Mapping[str, np.ndarray[Any, Any]], *, compressed: bool = False) -> bytes:
    """Return the bytes of a file that holds these arrays."""
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, allow_pickle=False, **arrays)
    payload = buffer.getvalue()
    return xxhash.xxh3_128_digest(payload) + payload


def decode(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a file. Raises `ValueError` if the file is damaged."""
    from zipfile import BadZipFile

    digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if xxhash.xxh3_128_digest(payload) != digest:
        raise ValueError("the checksum does not match")
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (KeyError, BadZipFile) as error:
        raise ValueError(f"not a NumPy archive: {error}") from error
