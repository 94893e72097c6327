"""What is kept of a version for ever: the answers to its own configuration, made before its rows go.

One file beside the arrays, `aggregates`: the xxh3_128 digest of its payload followed by the payload, an
npz of histograms and an index in JSON.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from statsvc.dataset.table import EXAMPLES, Histogram, map_histogram
from statsvc.errors import DamagedVersion, NotFound, Unanswerable
from statsvc.store.versions.arrays import CLASS_ARRAYS
from statsvc.store.versions.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from statsvc.classes.class_maps import ClassMap
    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.table import Block
    from statsvc.store.versions.location import Location

FILE = "aggregates"
_RAW, _OWN = "raw", "own"


def keep(version: Version, group: Location) -> None:
    """Write the aggregates of a version into its own group, durably. Raises `DamagedVersion`.

    For all samples and for each split: the counts over raw ids and under the version's class map, the
    unreadable samples, and the first samples of every raw id.
    """
    index: dict[str, Any] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    own = version.configuration.class_map
    raw_ids = version.raw_ids().tolist()
    for number, split in enumerate((None, *version.configuration.splits)):
        histograms = {_RAW: version.histogram(split)}
        if own is not None:
            histograms[_OWN] = version.histogram(split, own)
        for kind, histogram in histograms.items():
            for name in ("class_id", "mapped", "pixels", "images", "cooccurrence"):
                values = getattr(histogram, name)
                if values is not None:
                    arrays[f"{number}.{kind}.{name}"] = values
        failed, failures = version.failures(split)
        index["" if split is None else split] = {
            "number": number,
            "samples": histograms[_RAW].samples,
            "failed": failed,
            "failures": failures,
            "examples": {str(raw): paths for raw, paths in version.samples_with(raw_ids, split).items()},
        }
    arrays["index"] = np.frombuffer(json.dumps(index).encode(), np.uint8)
    payload = io.BytesIO()
    np.savez_compressed(payload, allow_pickle=False, **arrays)
    data = payload.getvalue()
    (group / FILE).write(xxhash.xxh3_128_digest(data) + data)


class Expired(Version):
    """A version that answers from its aggregates alone; its rows are gone, or may go at any time.

    group  the version's own group, which holds the aggregates
    """

    def __init__(
        self,
        folder: Location,
        group: Location,
        *,
        dataset: str,
        number: int,
        configuration: Configuration,
        digests: Mapping[str, str],
        failed: int,
    ) -> None:
        super().__init__(
            folder,
            dataset=dataset,
            number=number,
            configuration=configuration,
            digests={name: digests[name] for name in CLASS_ARRAYS if name in digests},
            failed=failed,
        )
        self._group = group
        self._kept: tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]] | None = None

    def why_no_rows(self) -> str:
        """Return why there are no rows, and what to do."""
        return (
            f"the rows of {self.dataset} version {self.version} were removed by retention; "
            "ask a newer version, and tag those whose rows are to be kept"
        )

    def totals(self) -> Histogram:
        """Return the counts of all samples over raw ids."""
        return self._histogram(None, _RAW)

    def histogram(self, split: str | None = None, class_map: ClassMap | None = None) -> Histogram:
        """Return the counts of a split after a class map, as `Table.histogram`.

        Under another class map than the version's own, one that merges ids, presence is not known.
        """
        if split is not None:
            self.split(split)
        if class_map is None:
            return self._histogram(split, _RAW)
        if class_map == self.configuration.class_map:
            return self._histogram(split, _OWN)
        return map_histogram(self._histogram(split, _RAW), class_map)

    def failures(
        self, split: str | None = None, limit: int | None = EXAMPLES
    ) -> tuple[int, list[tuple[str, str]]]:
        """Return how many samples could not be read, and those few of them that are still known."""
        kept = self._index(split)
        return kept["failed"], [(path, error) for path, error in kept["failures"][:limit]]

    def samples_with(
        self, raw_ids: Sequence[int], split: str | None = None, limit: int = EXAMPLES
    ) -> dict[int, list[str]]:
        """Return for each raw id the first samples in which it occurs, `EXAMPLES` at most."""
        kept = self._index(split)["examples"]
        return {raw_id: kept.get(str(raw_id), [])[:limit] for raw_id in raw_ids}

    def blocks(self) -> Iterator[Block]:
        """Raise `Unanswerable`: there are no rows."""
        raise Unanswerable(self.why_no_rows())

    def verify(self) -> None:
        """Read what is kept; raise `DamagedVersion` naming the first thing that is not as written."""
        totals = self.totals()
        values = {
            "class_id": totals.class_id,
            "class_pixels": totals.pixels,
            "class_images": totals.images,
            "cooccurrence": totals.cooccurrence,
        }
        for name in self._digests:
            if not np.array_equal(self.array(name), values[name]):  # type: ignore[arg-type]
                raise self._damaged(name, "is not what the aggregates hold")

    def _index(self, split: str | None) -> dict[str, Any]:
        index, _ = self._read_kept()
        found: dict[str, Any] | None = index.get("" if split is None else split)
        if found is None:
            raise NotFound(f"{self.dataset} version {self.version} has no split {split!r}")
        return found

    def _histogram(self, split: str | None, kind: str) -> Histogram:
        kept = self._index(split)
        _, arrays = self._read_kept()
        prefix = f"{kept['number']}.{kind}"
        return Histogram(
            arrays[f"{prefix}.class_id"],
            arrays[f"{prefix}.mapped"],
            arrays[f"{prefix}.pixels"],
            arrays.get(f"{prefix}.images"),
            arrays.get(f"{prefix}.cooccurrence"),
            kept["samples"],
        )

    def _read_kept(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        with self._lock:
            if self._kept is None:
                self._kept = self._load()
            return self._kept

    def _load(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        try:
            data = (self._group / FILE).read()
            with np.load(io.BytesIO(data[16:]), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            sound = xxhash.xxh3_128_digest(data[16:]) == data[:16]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise self._lost(str(error)) from error
        if not sound:
            raise self._lost("their digest is another")
        return json.loads(arrays.pop("index").tobytes()), arrays

    def _lost(self, why: str) -> DamagedVersion:
        return DamagedVersion(
            f"{self.dataset} version {self.version}: its aggregates cannot be read ({why}); "
            "restore them from a backup"
        )
