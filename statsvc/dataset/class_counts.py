"""Reading a table: raw ids → class map → ignored ids dropped → classes 0 … C−1; the rest is unexpected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.classes import class_maps
from statsvc.classes.class_maps import IGNORE, MAX_CLASSES
from statsvc.classes.palettes import unknown_colour
from statsvc.dataset.table import EXAMPLES
from statsvc.errors import Unanswerable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.classes.class_maps import ClassMap
    from statsvc.dataset.table import Histogram, Table

    Bool = NDArray[np.bool_]

_WITH_EXAMPLES = 20
"""How many unexpected ids, those with most pixels, get example files: naming files reads rows."""


@dataclass(frozen=True, slots=True)
class InterpretedCounts:
    """A histogram and what each of its K ids is.

    class_map    the map applied, None for raw ids
    names        names of classes 0 … n−1
    num_classes  C; 0 where nothing is counted and nothing says how many
    ignore       the ids ignored, ascending
    ignored      bool [K], ids in the ignore set
    counted      bool [K], ids that are classes
    unexpected   bool [K], ids with pixels that are neither: not in the map, or no class below C
    byte_class   True where 255, ignored by default, is a class because ids above it are counted
    """

    histogram: Histogram
    class_map: ClassMap | None
    names: tuple[str, ...]
    num_classes: int
    ignore: tuple[int, ...]
    ignored: Bool
    counted: Bool
    unexpected: Bool
    byte_class: bool

    def pixels(self, which: Bool) -> int:
        """Return the pixels of the chosen ids, exact also beyond 64 bits."""
        return sum(self.histogram.pixels[which].tolist())

    def all_pixels(self) -> int:
        """Return the pixels of all ids, exact also beyond 64 bits."""
        return sum(self.histogram.pixels.tolist())


def interpret(
    table: Table,
    *,
    split: str | None = None,
    class_map: str | None = None,
    ignore_index: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    void_takes_part: bool = False,
) -> InterpretedCounts:
    """Return the table's counts as they are asked for; None leaves a choice to the dataset.

    With another class map than the dataset's, its class names, number of classes and ignored ids no
    longer apply: they speak of training ids of its own map.
    `void_takes_part` counts the dataset's ignored ids, all but 255 and negative ones.

    Raises `NotFound` for an unknown split or class map, `Unanswerable` where the table cannot tell.
    """
    configuration = table.configuration
    mapping = configuration.class_map
    if class_map is not None:
        mapping = None if class_map == "none" else class_maps.builtin(class_map)
    own = mapping == configuration.class_map
    histogram = table.histogram(split, mapping)
    if split is not None and histogram.samples == 0:
        raise Unanswerable(_empty(table, split))
    ids = histogram.class_id
    there = histogram.mapped & (histogram.pixels > 0)

    names = configuration.class_names if own else ()
    if not names and mapping is not None:
        names = mapping.names
    classes = num_classes
    if classes is None and own:
        classes = configuration.num_classes or None
    if classes is None and mapping is not None:
        classes = mapping.num_classes

    void: tuple[int, ...] = ()
    byte_class = False
    dataset_ignore = configuration.ignore_index if own else None
    if ignore_index is None and void_takes_part and dataset_ignore is not None:
        void = tuple(i for i in dataset_ignore if i >= 0 and i != IGNORE)
        dataset_ignore = None
    if ignore_index is None:
        ignore_index = dataset_ignore
    if ignore_index is None:
        beyond = there & (ids > IGNORE)
        byte_class = bool(beyond.any()) and (classes is None or classes > IGNORE + 1)
        ignored = ids < 0
        listed = {int(i) for i in ids[there & ignored]}
        if not byte_class:
            ignored |= ids == IGNORE
            listed.add(IGNORE)
        ignore_index = tuple(sorted(listed))
    else:
        ignored = np.isin(ids, np.array(ignore_index, np.int64))
    ignored &= histogram.mapped

    if classes is None:
        counted_ids = ids[there & ~ignored & (ids >= 0)]
        classes = max(int(counted_ids.max(initial=-1)) + 1, len(names))
        if classes > MAX_CLASSES:
            raise Unanswerable(
                f"the highest id is {classes - 1}, and weights can have {MAX_CLASSES} classes: give "
                "num_classes or a class map (ids of instances or depths are no classes)"
            )
    if num_classes is None and void:
        classes = max(classes, max(void) + 1)
    counted = histogram.mapped & ~ignored & (ids >= 0) & (ids < classes)
    unexpected = (histogram.pixels > 0) & ~ignored & ~counted
    return InterpretedCounts(
        histogram, mapping, names, classes, ignore_index, ignored, counted, unexpected, byte_class
    )


def _empty(table: Table, name: str) -> str:
    """Say why a split holds no sample that was counted."""
    failed, _ = table.failures(name)
    if failed:
        return f"{table.dataset}: none of the {failed} samples in split {name!r} could be read; scan again"
    split = table.split(name)
    if split.folder is not None:
        return f"{table.dataset}: split {name!r} holds no sample: no file lies in a folder of that name"
    return (
        f"{table.dataset}: split {name!r} matches no sample: none of its {len(split.paths)} paths is in the "
        f"dataset, for instance {min(split.paths)}; write them relative to the source"
    )


def unexpected_ids(table: Table, reading: InterpretedCounts, split: str | None) -> list[dict[str, Any]]:
    """Return id (after the map, where it knows it), pixels and example files of every unexpected id.

    Where colours were counted, `colour` says which one is not in the palette.
    """
    if not reading.unexpected.any():
        return []
    histogram = reading.histogram
    at = np.flatnonzero(reading.unexpected)
    raw_ids = table.raw_ids()
    if reading.class_map is None:
        mapped, known = raw_ids, np.ones(len(raw_ids), bool)
    else:
        mapped, known = reading.class_map.apply(raw_ids)
    most = at[np.argsort(-histogram.pixels[at], kind="stable")[:_WITH_EXAMPLES]]
    raws = {int(k): raw_ids[(mapped == histogram.class_id[k]) & (known == histogram.mapped[k])] for k in most}
    found = table.samples_with([int(raw) for group in raws.values() for raw in group], split)
    coloured = table.configuration.counting.palette is not None
    result: list[dict[str, Any]] = []
    for k in at:
        examples = sorted({path for raw in raws.get(int(k), ()) for path in found[int(raw)]})[:EXAMPLES]
        entry: dict[str, Any] = {
            "id": int(histogram.class_id[k]),
            "pixels": int(histogram.pixels[k]),
            "examples": examples,
        }
        if coloured and (colour := unknown_colour(entry["id"])) is not None:
            entry["colour"] = colour
        result.append(entry)
    return sorted(result, key=lambda entry: int(entry["id"]))
