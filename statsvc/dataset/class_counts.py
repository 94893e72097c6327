"""Interpretation of a table: raw ids → class map → classes 0 … C−1, ignored ids and unexpected ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.classes import class_maps
from statsvc.classes.class_maps import IGNORE, MAX_CLASSES
from statsvc.common.plurals import plural
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.groups import GroupName
from statsvc.dataset.table import EXAMPLES
from statsvc.errors import Unanswerable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.classes.class_maps import ClassMap
    from statsvc.dataset.histogram import Histogram
    from statsvc.dataset.table import Table

    Bool = NDArray[np.bool_]
    Int64 = NDArray[np.int64]

_MAX_IDS_WITH_EXAMPLES = 20
"""Unexpected ids, those with the most pixels, that get example files: finding files reads rows."""


class InterpretedCounts(Struct, frozen=True):
    """A histogram with K ids, and the role of each id.

    Each id has at most one role: ignored, counted or unexpected. An id without pixels that is neither
    ignored nor a class has none.

    histogram    the counts after `class_map`
    class_map    the class map that was applied; None for raw ids
    names        names of the classes 0 … n−1, n ≤ C or empty
    num_classes  C; 0 if no id is counted and neither the request nor the dataset defines it
    ignore       the ignored ids, ascending; they need not occur
    ignored      bool [K], True for ids in `ignore`
    counted      bool [K], True for ids that are classes, 0 ≤ id < C
    unexpected   bool [K], True for ids with pixels that do not map to a class and are not ignored
    byte_class   True if 255 is a class, contrary to the default, because ids above 255 occur
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

    def pixels(self, selected: Bool) -> int:
        """Return the total pixels of the selected ids, bool [K]; exact beyond 64 bits, too."""
        return sum(self.histogram.pixels[selected].tolist())

    def all_pixels(self) -> int:
        """Return the total pixels of all K ids; exact beyond 64 bits, too."""
        return sum(self.histogram.pixels.tolist())


def interpret(
    table: Table,
    *,
    split: str | None = None,
    class_map: str | None = None,
    ignore_index: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    count_void: bool = False,
) -> InterpretedCounts:
    """Return the counts of a table with the role of each id. None selects the dataset's own choice.

    split         name of a split; None for all samples
    class_map     name of a built-in class map, or "none" for raw ids
    ignore_index  ids, after the class map, that are not counted
    num_classes   C, the number of classes
    count_void    count the dataset's ignored ids as classes, except 255 and negative ids

    The dataset's class names, number of classes and ignored ids refer to its own class map, so they do not
    apply under another class map.

    Raises `NotFound` for an unknown split or class map, and `Unanswerable` for a split without counted
    samples or if the number of classes cannot be inferred.
    """
    configuration = _under_class_map(table.configuration, class_map)
    mapping = configuration.class_map
    histogram = table.histogram(split, mapping)
    if split is not None and histogram.samples == 0:
        raise Unanswerable(_why_empty(table, split))

    names = configuration.class_names or (() if mapping is None else mapping.names)
    classes = num_classes
    if classes is None:
        classes = configuration.num_classes or (None if mapping is None else mapping.num_classes)

    void: tuple[int, ...] = ()
    if ignore_index is None and count_void and configuration.ignore_index is not None:
        void = tuple(i for i in configuration.ignore_index if i >= 0 and i != IGNORE)
    elif ignore_index is None:
        ignore_index = configuration.ignore_index
    ids = histogram.class_id
    byte_class = False
    if ignore_index is None:
        ignored, ignore_index, byte_class = _default_ignored(histogram, classes)
    else:
        ignored = np.isin(ids, np.array(ignore_index, np.int64))
    ignored &= histogram.mapped

    if classes is None:
        classes = _infer_classes(histogram, ignored, names)
    if num_classes is None and void:
        classes = max(classes, max(void) + 1)
    counted = histogram.mapped & ~ignored & (ids >= 0) & (ids < classes)
    unexpected = (histogram.pixels > 0) & ~ignored & ~counted
    return InterpretedCounts(
        histogram, mapping, names, classes, ignore_index, ignored, counted, unexpected, byte_class
    )


def _under_class_map(configuration: Configuration, class_map: str | None) -> Configuration:
    """Return the configuration under a class map by name; without names and ids if it is another map."""
    if class_map is None:
        return configuration
    mapping = None if class_map == "none" else class_maps.builtin(class_map)
    return configuration if mapping == configuration.class_map else Configuration(class_map=mapping)


def _default_ignored(histogram: Histogram, classes: int | None) -> tuple[Bool, tuple[int, ...], bool]:
    """Return the ids that are ignored by default: negative ids, and 255 unless it is a class.

    255 is a class if ids above it occur and the number of classes, if known, includes them.

    Returns a mask, bool [K], the sorted ignored ids (255, and the negative ids that occur), and whether 255
    is a class.
    """
    ids = histogram.class_id
    occurs = histogram.mapped & (histogram.pixels > 0)
    byte_class = bool((occurs & (ids > IGNORE)).any()) and (classes is None or classes > IGNORE + 1)
    ignored = ids < 0
    ignore_index = {int(i) for i in ids[occurs & ignored]}
    if not byte_class:
        ignored |= ids == IGNORE
        ignore_index.add(IGNORE)
    return ignored, tuple(sorted(ignore_index)), byte_class


def _infer_classes(histogram: Histogram, ignored: Bool, names: tuple[str, ...]) -> int:
    """Return the highest id that occurs and is not ignored, plus 1, or the number of names if that is larger.

    Raises `Unanswerable` if that exceeds `MAX_CLASSES`.
    """
    ids = histogram.class_id
    occurs = histogram.mapped & (histogram.pixels > 0)
    highest = int(ids[occurs & ~ignored & (ids >= 0)].max(initial=-1))
    classes = max(highest + 1, len(names))
    if classes > MAX_CLASSES:
        raise Unanswerable(
            f"the highest id is {classes - 1}, which exceeds the limit of {MAX_CLASSES} classes; the ids are "
            "probably instance ids or depths. Give num_classes, or a class map that maps them to classes"
        )
    return classes


def _why_empty(table: Table, name: str) -> str:
    """Return why no sample of a split was counted, and what to do."""
    failed, _ = table.failures(name)
    if failed:
        return (
            f"{table.dataset}: none of the {plural(failed, 'sample')} in split {name!r} could be read; fix "
            "the files and scan again"
        )
    split = table.find_split(name)
    if split.folder is not None:
        return (
            f"{table.dataset}: split {name!r} contains no samples, because no file is in a folder of that "
            "name; add files, or define the split by a list or a glob"
        )
    if split.group is not None and (group := GroupName.parse(name, table.configuration.splits)):
        within = "" if group.split is None else f" of split {group.split!r}"
        return (
            f"{table.dataset}: no sample{within} is in the group {group.rule}:{group.value}; GET "
            f"/datasets/{table.dataset}/groups?by={group.rule} lists the groups"
        )
    if split.glob is not None:
        return (
            f"{table.dataset}: split {name!r} matches no sample of the dataset; check the glob "
            f"{split.glob!r}, which applies to paths relative to the source"
        )
    entries = split.paths | split.names
    return (
        f"{table.dataset}: split {name!r} matches no sample: it lists {plural(len(entries), 'path')}, and "
        f"none is in the dataset, for instance {min(entries)}; write them relative to the source"
    )


def unexpected_ids(table: Table, counts: InterpretedCounts, split: str | None) -> list[dict[str, Any]]:
    """Return one JSON object per unexpected id, ascending: `id`, `pixels` and `examples`.

    id        the id after the class map, or the raw id if the map does not contain it
    examples  paths of up to `EXAMPLES` samples; empty except for the ids with the most pixels
    colour    for color-coded label maps only: the color that the palette does not contain, as #rrggbb
    """
    if not counts.unexpected.any():
        return []
    from statsvc.classes.palettes import unknown_color

    histogram = counts.histogram
    columns = np.flatnonzero(counts.unexpected)
    most_pixels = np.argsort(-histogram.pixels[columns], kind="stable")
    raw_ids_of = _raw_ids_of(table, counts, columns[most_pixels[:_MAX_IDS_WITH_EXAMPLES]])
    paths_of = table.samples_with([int(raw) for group in raw_ids_of.values() for raw in group], split)
    has_palette = table.configuration.counting.palette is not None
    result: list[dict[str, Any]] = []
    for k in columns.tolist():
        paths = {path for raw in raw_ids_of.get(k, ()) for path in paths_of[int(raw)]}
        entry: dict[str, Any] = {
            "id": int(histogram.class_id[k]),
            "pixels": int(histogram.pixels[k]),
            "examples": sorted(paths)[:EXAMPLES],
        }
        if has_palette and (colour := unknown_color(entry["id"])) is not None:
            entry["colour"] = colour
        result.append(entry)
    return sorted(result, key=lambda entry: int(entry["id"]))


def _raw_ids_of(table: Table, counts: InterpretedCounts, columns: NDArray[np.intp]) -> dict[int, Int64]:
    """Return, for each of these columns of the histogram, the raw ids that the class map merges in it."""
    raw_ids = table.raw_ids()
    if counts.class_map is None:
        mapped, known = raw_ids, np.ones(len(raw_ids), bool)
    else:
        mapped, known = counts.class_map.apply(raw_ids)
    histogram = counts.histogram
    return {
        k: raw_ids[(mapped == histogram.class_id[k]) & (known == histogram.mapped[k])]
        for k in columns.tolist()
    }
