"""A version's aggregates: what remains of it forever, written before its rows are removed.

They answer every request under the version's own configuration. They are one file in the version's group,
`aggregates`, a `checked_npz` file of histograms and a JSON index.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.histogram import Histogram
from statsvc.dataset.mapped_columns import map_histogram
from statsvc.dataset.table import EXAMPLES
from statsvc.errors import DamagedVersion, NotFound, Unanswerable
from statsvc.store.versions import checked_npz
from statsvc.store.versions.arrays import CLASS_ARRAYS, class_arrays, object_totals
from statsvc.store.versions.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from statsvc.classes.class_maps import ClassMap
    from statsvc.dataset.configuration import Configuration
    from statsvc.dataset.grid import Grid
    from statsvc.dataset.table import Block
    from statsvc.store.versions.location import Location
    from statsvc.store.versions.verified_arrays import ArrayCache

FILE = "aggregates"
_RAW, _MAPPED = "raw", "own"
"""Parts of array names in the file: counts over raw ids, and under the version's class map."""


def write_aggregates(version: Version, group: Location) -> None:
    """Write the aggregates of a version to its own group, durably. Raises `DamagedVersion`.

    For all samples and for each split, they contain the counts over raw ids and under the version's class
    map, the unreadable samples, and the first samples in which each raw id occurs.
    """
    index: dict[str, Any] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    class_map = version.configuration.class_map
    raw_ids = version.raw_ids().tolist()
    for number, split in enumerate((None, *version.configuration.splits)):
        histograms = {_RAW: version.histogram(split)}
        if class_map is not None:
            histograms[_MAPPED] = version.histogram(split, class_map)
        for kind, histogram in histograms.items():
            for name in ("class_id", "mapped", "pixels", "images", "cooccurrence"):
                values = getattr(histogram, name)
                if values is not None:
                    arrays[f"{number}.{kind}.{name}"] = values
            for name, values in class_arrays(histogram).items():
                if name.startswith("object_"):
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
    (group / FILE).write(checked_npz.encode(arrays, compressed=True))


class ExpiredVersion(Version):
    """A version that answers only from its aggregates: gc has removed its rows, or may do so at any time.

    group  location of the version's own group, which contains the aggregates
    """

    def __init__(
        self,
        arrays: Location,
        group: Location,
        *,
        dataset: str,
        number: int,
        configuration: Configuration,
        digests: Mapping[str, str],
        failed: int,
        cache: ArrayCache | None = None,
    ) -> None:
        super().__init__(
            arrays,
            dataset=dataset,
            number=number,
            configuration=configuration,
            digests={name: digests[name] for name in CLASS_ARRAYS if name in digests},
            failed=failed,
            cache=cache,
        )
        self._own_group = group
        self._aggregates: tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]] | None = None

    def why_no_rows(self) -> str:
        """Return why the version has no rows, and what to do."""
        return (
            f"the rows of {self.dataset} version {self.version} were removed by retention; "
            "request a newer version, and tag versions whose rows must be kept"
        )

    def totals(self) -> Histogram:
        """Return the counts of all samples over raw ids."""
        return self._histogram(None, _RAW)

    def histogram(self, split: str | None = None, class_map: ClassMap | None = None) -> Histogram:
        """Return the counts of a split after a class map, as `Table.histogram` does.

        Under a class map that merges ids and is not the version's own, the presence counts are unknown.
        Raises `Unanswerable` for a group, which may be defined in any number of ways.
        """
        if split is not None and self.find_split(split).group is not None:
            raise Unanswerable(self.why_no_rows())
        if class_map is None:
            return self._histogram(split, _RAW)
        if class_map == self.configuration.class_map:
            return self._histogram(split, _MAPPED)
        return map_histogram(self._histogram(split, _RAW), class_map)

    def failures(
        self, split: str | None = None, limit: int | None = EXAMPLES
    ) -> tuple[int, list[tuple[str, str]]]:
        """Return how many samples could not be read, and the first of them, which the aggregates list."""
        entry = self._index(split)
        return entry["failed"], [(path, error) for path, error in entry["failures"][:limit]]

    def samples_with(
        self, raw_ids: Sequence[int], split: str | None = None, limit: int = EXAMPLES
    ) -> dict[int, list[str]]:
        """Return for each raw id the first samples in which it occurs, at most `EXAMPLES`."""
        examples = self._index(split)["examples"]
        return {raw_id: examples.get(str(raw_id), [])[:limit] for raw_id in raw_ids}

    def blocks(self) -> Iterator[Block]:
        """Raise `Unanswerable`: an expired version has no rows."""
        raise Unanswerable(self.why_no_rows())

    @property
    def has_objects(self) -> bool:
        """False: the objects of each sample are removed with the rows; their totals remain."""
        return False

    @property
    def grid(self) -> Grid | None:
        """None: the histograms on a grid are removed with the rows."""
        return None

    def why_no_grid(self) -> str:
        """Return why the version has no histograms on a grid, and what to do."""
        return self.why_no_rows()

    def verify(self) -> None:
        """Read the aggregates; raise `DamagedVersion`, which names the first array that contradicts them."""
        aggregated = class_arrays(self.totals())
        for name in self._digests:
            if name not in aggregated or not np.array_equal(self.array(name), aggregated[name]):
                raise self._damaged(name, "differs from the aggregates")

    def _index(self, split: str | None) -> dict[str, Any]:
        index, _ = self._load_once()
        entry: dict[str, Any] | None = index.get("" if split is None else split)
        if entry is None:
            raise NotFound(f"{self.dataset} version {self.version} has no split {split!r}")
        return entry

    def _histogram(self, split: str | None, kind: str) -> Histogram:
        entry = self._index(split)
        _, arrays = self._load_once()
        prefix = f"{entry['number']}.{kind}"
        objects = {name: arrays[f"{prefix}.{name}"] for name in CLASS_ARRAYS if f"{prefix}.{name}" in arrays}
        return Histogram(
            arrays[f"{prefix}.class_id"],
            arrays[f"{prefix}.mapped"],
            arrays[f"{prefix}.pixels"],
            arrays.get(f"{prefix}.images"),
            arrays.get(f"{prefix}.cooccurrence"),
            entry["samples"],
            object_totals(objects),
        )

    def _load_once(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        with self._lock:
            if self._aggregates is None:
                self._aggregates = self._load()
            return self._aggregates

    def _load(self) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        try:
            arrays = checked_npz.decode((self._own_group / FILE).read())
        except (OSError, ValueError) as error:
            raise DamagedVersion(
                f"{self.dataset} version {self.version}: its aggregates cannot be read ({error}); "
                "restore them from a backup"
            ) from error
        return json.loads(arrays.pop("index").tobytes()), arrays
