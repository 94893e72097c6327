"""Read the arrays of one version, verified against their digests in the catalog."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from statsvc.common.distinct import distinct
from statsvc.common.lru import Lru
from statsvc.errors import DamagedVersion, StoreError
from statsvc.store.versions.arrays import SAMPLE_ARRAYS, VALUES_PER_CHUNK, Digest, dtype_of
from statsvc.store.versions.row_access import check_may_read_rows
from statsvc.store.versions.stored_bytes import check_group
from statsvc.store.versions.zarr_files import STRING, StoredChunk, open_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.store.versions.location import Location
    from statsvc.store.versions.zarr_files import StoredArray

ArrayCache: TypeAlias = Lru[tuple[str, str, str], "np.ndarray[Any, Any]"]
"""Verified arrays by location, name and digest."""


def array_cache(limit: int) -> ArrayCache:
    """Return an empty cache of at most `limit` bytes."""
    return Lru(limit, _bytes_of)


def _bytes_of(values: np.ndarray[Any, Any]) -> int:
    """Return the memory of an array; strings of more than 15 bytes are outside of its buffer."""
    size = values.nbytes
    if values.dtype == STRING:
        # In steps: other threads wait while NumPy goes through strings.
        for start in range(0, len(values), VALUES_PER_CHUNK):
            size += int(np.strings.str_len(values[start : start + VALUES_PER_CHUNK]).sum())
    return size


class VerifiedArrays:
    """The arrays of a version, read lazily from its Zarr group.

    `array`, `read`, `chunks` and `stored_chunks` verify the digest of what they read. `DamagedVersion` is
    raised for an array that does not match, and `StoreError` if the version store cannot be read.

    arrays   location of the group that contains the arrays
    digests  digest of each array, from the catalog
    cache    verified arrays, shared by versions with the same arrays; by default this version keeps all
    """

    dataset: str
    version: int | None

    def __init__(self, arrays: Location, digests: Mapping[str, str], cache: ArrayCache | None) -> None:
        self._location, self._digests = arrays, digests
        self._lock = threading.Lock()
        self._cache = array_cache(sys.maxsize) if cache is None else cache
        self._stored_arrays: dict[str, StoredArray] = {}

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return one whole array, verified and cached; read `counts` with `blocks` instead."""
        key = (str(self._location), name, self._digests[name])
        if (cached := self._cache.get(key)) is not None:
            return cached
        if name in SAMPLE_ARRAYS and name != "status":  # the totals need only the length of `status`
            check_may_read_rows()
        with self._lock:
            values = self._cache.get(key)
            if values is None:
                values = self.read(name)
                self._cache.put(key, values)
            return values

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Return one whole array, verified, as `array` does, but do not cache it."""
        digest = Digest()
        with self._reading(name):
            values = self._stored_array(name).read(seen=digest.add)
        if values.dtype != dtype_of(name) or digest.hexdigest() != self._digests[name]:
            raise self._damaged(name, "does not match its digest")
        values.setflags(write=False)
        return values

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, np.ndarray[Any, Any]]]]:
        """Yield (number of the first row, values by array) of per-sample arrays, in row order, uncached.

        The digests can only be verified after the last chunk: if `DamagedVersion` is raised, the caller must
        discard everything it has derived from earlier chunks.
        """
        for start, rows in self.stored_chunks(names):
            yield start, {name: self.decoded(name, rows[name].data) for name in names}

    def stored_chunks(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, StoredChunk]]]:
        """Yield per-sample arrays as `chunks` does, as they are stored; `decoded` returns their values."""
        digests = {name: Digest() for name in names}
        with self._reading(names[0]):
            samples = self._stored_array(names[0]).shape[0]
        for number in range(-(-samples // VALUES_PER_CHUNK)):
            rows = {}
            for name in names:
                with self._reading(name):
                    array = self._stored_array(name)
                    [compressed] = array.compressed(number, number + 1)
                    rows[name] = StoredChunk(array.data(number, compressed), compressed)
                digests[name].add(rows[name].data)
            yield number * VALUES_PER_CHUNK, rows
        for name in names:
            if digests[name].hexdigest() != self._digests[name]:
                raise self._damaged(name, "does not match its digest")

    def decoded(self, name: str, data: bytes) -> np.ndarray[Any, Any]:
        """Return the values of a per-sample array from `StoredChunk.data`."""
        with self._reading(name):
            return self._check_dtype(name, self._stored_array(name).decode(data))

    def take(self, name: str, rows: NDArray[np.int64]) -> np.ndarray[Any, Any]:
        """Return the values of a per-sample array at some ascending row numbers.

        Only the chunks of these rows are read, so they are verified by their zstd checksums alone.
        """
        values_by_chunk = [np.empty(0, dtype_of(name))]
        for chunk in distinct(rows // VALUES_PER_CHUNK).tolist():
            start = chunk * VALUES_PER_CHUNK
            values = self._slice(name, slice(start, start + VALUES_PER_CHUNK))
            values_by_chunk.append(values[rows[rows // VALUES_PER_CHUNK == chunk] - start])
        return np.concatenate(values_by_chunk)

    def _slice(self, name: str, rows: slice) -> np.ndarray[Any, Any]:
        return self._check_dtype(name, self._read(name, rows.start, rows.stop))

    def _check_dtype(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if values.dtype != dtype_of(name) and (name, values.dtype) != ("grid_tile", np.uint8):
            raise self._damaged(name, f"has dtype {values.dtype}, not {dtype_of(name)}")
        return values

    def _stored_array(self, name: str) -> StoredArray:
        # The metadata is read once, not for every chunk: each read is a request to an object store.
        if not self._stored_arrays:
            check_group(self._location)
        if name not in self._stored_arrays:
            self._stored_arrays[name] = open_array(self._location, name)
        return self._stored_arrays[name]

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray[Any, Any]:
        with self._reading(name):
            return self._stored_array(name).read(start, stop)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Translate errors while reading an array: `StoreError` stays, everything else is damage."""
        try:
            yield
        except StoreError as error:
            raise type(error)(f"{self.dataset} version {self.version} cannot be read: {error}") from error
        except Exception as error:
            raise self._damaged(name, f"cannot be read ({type(error).__name__}: {error})") from error

    def _damaged(self, name: str, what: str) -> DamagedVersion:
        return DamagedVersion(
            f"{self.dataset} version {self.version}: array {name!r} {what}; "
            f"recount the dataset with: statsvc scan --name {self.dataset} --full SOURCE"
        )
