"""Class names, colors and ignored ids that lie next to the label maps of a source.

Class lists (`statsvc.classes.class_lists`) are searched in the folders of the label maps and above them, up
to the source and, for a scan by its owner, in the folder that contains the source. A list is used only if
the label maps agree with it: colors become the counting rule if the label maps contain no other colors.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from statsvc.classes import class_lists
from statsvc.classes.class_maps import IGNORE
from statsvc.classes.palettes import OVERLAP, of_class_list
from statsvc.common.object_urls import is_listable, is_url
from statsvc.common.one_line import one_line
from statsvc.common.plurals import plural, plural_with_verb
from statsvc.dataset.counting_rule import MASKS, VALUE
from statsvc.dataset.num_classes import infer_num_classes
from statsvc.errors import UnreadableSample
from statsvc_workers.formats import FORMATS, extension, open_label_map, peek
from statsvc_workers.formats.voxels import TOLERANCE
from statsvc_workers.processes import isolated
from statsvc_workers.samples.open_sample import existing, open_bytes
from statsvc_workers.samples.roots import current_roots, restricted
from statsvc_workers.sources import class_masks
from statsvc_workers.sources.content import READ_HERE, read_here

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.classes.class_lists import ClassList
    from statsvc.dataset.configuration import Configuration
    from statsvc_workers.formats.base import Peek
    from statsvc_workers.sources.listing import Listing

FOLDERS = 64
"""Folders of label maps in which class lists are searched; in an object store, `REMOTE_FOLDERS`."""

REMOTE_FOLDERS = 4

EXAMPLES = 5
"""Label maps whose ids or colors are compared with a class list."""

EXAMPLE_PIXELS = 1 << 26
"""A larger label map is not compared."""

HEADERS, REMOTE_HEADERS = 64, 8
"""GeoTIFF and NIfTI files whose headers are read for nodata values and scales; in an object store, fewer."""

MAX_REASON = 300
"""Most characters of the reason why a class list is not used."""

OVERRIDE = "--ignore-index overrides this"

GIVE_NAMES = "Give the names with --class-names"


SMALL_BYTES = 1 << 16
"""Class lists up to this size are parsed in this process, larger ones in a child process."""


class ClassFiles(Struct, frozen=True):
    """What files of a source say about its classes.

    classes   the class list; None without one
    file      its path, for a person
    nodata    ids that GeoTIFF files declare as nodata → number of the files that were examined
    examined  number of GeoTIFF files that were examined
    notes     files that were not used → why
    masks     whether the files are named like one mask per class
    """

    classes: ClassList | None = None
    file: str = ""
    nodata: Mapping[int, int] = field(default_factory=dict)
    examined: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)
    masks: bool = False


def find(root: str, listing: Listing, *, search_parent: bool = False) -> ClassFiles:
    """Return what the files of a source say about its label maps.

    search_parent  also search the folder that contains the source, which is outside it

    Raises `OSError` where an object store cannot be read.
    """
    if is_url(root) and not is_listable(root):
        return ClassFiles(notes=listing.notes)
    chosen = [path for path in listing.path if extension(path) in FORMATS]
    notes = dict(listing.notes)
    if scaled := _scaled(root, chosen):
        notes["scale"] = f"{scaled}; values within {TOLERANCE:g} of an integer are rounded"
    classes, file = _class_list(root, chosen, notes, search_parent=search_parent)
    nodata, examined = _nodata(root, [path for path in chosen if extension(path) in (".tif", ".tiff")])
    masks = class_masks.looks_like_masks(chosen)
    return ClassFiles(classes, file, nodata, examined, notes, masks)


def with_rule(
    configuration: Configuration, files: ClassFiles, root: str, paths: Sequence[str]
) -> Configuration:
    """Return the configuration before counting: a class list whose colors the label maps contain is its rule.

    The configuration is returned unchanged if it already has a rule, or a class map.
    """
    classes = files.classes
    if classes is None or not classes.colors or configuration.counting.rule != VALUE:
        return configuration
    if configuration.class_map is not None:
        return configuration
    chosen = _spread([path for path in paths if extension(path) in FORMATS], EXAMPLES)
    palette = of_class_list(classes, files.file)
    verdict = _compare(root, chosen, classes, configuration.counting.key)
    if verdict == "ids":
        return configuration
    if verdict != "colors":
        text = f"not used as --rule: {verdict}"
        return replace(configuration, notes={**configuration.notes, files.file: text})
    notes = {**configuration.notes, "rule": f"{len(classes.colors)} colors were read from {files.file}"}
    counting = replace(configuration.counting, rule="palette", palette=palette)
    return replace(configuration, counting=counting, notes=notes)


def with_classes(
    configuration: Configuration, files: ClassFiles, class_id: NDArray[np.int64]
) -> Configuration:
    """Return the configuration after counting: with class names, ignored ids and the number of classes.

    class_id  int64 [k], ascending raw ids that occur

    Fields that the configuration already defines are kept.
    """
    notes = {**configuration.notes, **files.notes}
    configuration = _with_nodata(configuration, files, class_id, notes)
    if configuration.counting.masks and OVERLAP in class_id:
        notes["overlaps"] = f"pixels inside masks of several classes count for none; their id is {OVERLAP}"
    if files.masks and configuration.counting.rule == VALUE and set(class_id.tolist()) <= {0, 1, IGNORE}:
        notes["masks"] = (
            f"the files are named like one mask per class; --rule {MASKS} merges those of a picture"
        )
    classes = files.classes
    if classes is None or configuration.class_names or configuration.class_map is not None:
        return replace(configuration, notes=notes)
    names = classes.class_names()
    names_read = f"{plural_with_verb(len(names), 'name', 'was', 'were')} read from {files.file}"
    if configuration.counting.palette is not None:
        if "rule" in configuration.notes:
            notes["class_names"] = names_read
        return replace(configuration, notes=notes)
    if classes.ignored and configuration.ignore_index is None:
        ignored = tuple(sorted({IGNORE, *classes.ignored}))
        configuration = replace(configuration, ignore_index=ignored)
        notes["ignore_index"] = (
            f"{files.file} calls {', '.join(map(str, classes.ignored))} ignored; {OVERRIDE}"
        )
    if configuration.num_classes:
        classes_known = configuration.num_classes
        why = f"the dataset has {plural(classes_known, 'class')}"
    else:
        classes_known = infer_num_classes(class_id, configuration)
        why = f"the id {classes_known - 1} occurs"
    too_many = len(names) > configuration.num_classes > 0
    if too_many or (classes_known > len(names) and not classes.explicit):
        notes[files.file] = f"not used: it lists {plural(len(names), 'class')}, but {why}. {GIVE_NAMES}"
        return replace(configuration, notes=notes)
    notes["class_names"] = names_read
    num_classes = max(len(names), classes_known)
    return replace(configuration, class_names=names, num_classes=num_classes, notes=notes)


def _with_nodata(
    configuration: Configuration, files: ClassFiles, class_id: NDArray[np.int64], notes: dict[str, str]
) -> Configuration:
    """Return the configuration with the nodata values of GeoTIFF files among its ignored ids."""
    declared = {value for value in files.nodata if value in class_id}
    default = configuration.ignore_index is None and configuration.class_map is None
    if not declared or not default or configuration.counting.rule != VALUE:
        return configuration
    texts = [
        f"{value} is the nodata value of {files.nodata[value]} of {files.examined} GeoTIFF files examined"
        for value in sorted(declared)
    ]
    others = {int(i) for i in class_id if i >= 0} - declared
    high = any(i > IGNORE for i in others) and configuration.num_classes not in range(1, IGNORE + 2)
    ignored = {int(i) for i in class_id if i < 0} | declared | (set() if high else {IGNORE})
    partly = [value for value in declared if files.nodata[value] < files.examined]
    if (0 in declared and len(others - ignored) < 2) or partly:
        reason = "some files do not declare it" if partly else "without it, less than two classes occur"
        notes["nodata"] = f"{'; '.join(texts)}. It is counted, because {reason}; {OVERRIDE}"
        return configuration
    notes["ignore_index"] = f"{'; '.join(texts)}, so it is ignored; {OVERRIDE}"
    return replace(configuration, ignore_index=tuple(sorted(ignored)))


def _class_list(
    root: str, paths: Sequence[str], notes: dict[str, str], *, search_parent: bool
) -> tuple[ClassList | None, str]:
    """Return the nearest class list, and its path; add files that cannot be used to `notes`."""
    for folders in _folders(paths, REMOTE_FOLDERS if is_url(root) else FOLDERS):
        wanted = [_join(folder, name) for folder in folders for name in class_lists.FILE_NAMES]
        chosen = _chosen_by_folder(existing(root, wanted))
        parsed: dict[str, ClassList] = {}
        for path in chosen:
            with open_bytes(root, path) as file:
                _parse(path, file, parsed, notes)
        if len(set(parsed.values())) > 1:
            first, *others = parsed
            notes[first] = f"not used: {', '.join(others[:3])} lists other classes"
            return None, ""
        if parsed:
            return next(iter(parsed.values())), next(iter(parsed))
    auxiliary = existing(root, [f"{path}.aux.xml" for path in _spread(list(paths), 1)])
    for path in auxiliary:
        parsed = {}
        with open_bytes(root, path) as file:
            _parse(path, file, parsed, {})  # most auxiliary files contain statistics and no classes
        if parsed:
            return parsed[path], path
    return _list_of_parent(root, notes) if search_parent and not is_url(root) else (None, "")


def _list_of_parent(root: str, notes: dict[str, str]) -> tuple[ClassList | None, str]:
    parent = Path(root).resolve().parent
    for name in class_lists.FILE_NAMES:
        path = parent / name
        if path.is_file():
            parsed: dict[str, ClassList] = {}
            with path.open("rb") as file:
                _parse(f"../{name}", file, parsed, notes)
            if parsed:
                return parsed[f"../{name}"], f"../{name}"
    return None, ""


def _parse(path: str, file: BinaryIO, parsed: dict[str, ClassList], notes: dict[str, str]) -> None:
    name = PurePosixPath(path).name
    try:
        content = file.read(class_lists.MAX_BYTES + 1)
        if len(content) <= SMALL_BYTES:
            classes = class_lists.parse(name, content)
        else:  # a parser of YAML takes minutes for megabytes
            classes = isolated.call(class_lists.parse, name, content)
    except ValueError as error:
        # The message can quote a line of any length, and is stored with the dataset.
        notes[path] = f"not used: {one_line(str(error))[:MAX_REASON]}"
        return
    if name.startswith("data."):
        # Ultralytics numbers objects from 0, where label maps often have the background.
        classes = replace(classes, explicit=False)
    parsed[path] = classes


def _folders(paths: Sequence[str], limit: int) -> list[list[str]]:
    """Return the folders of the label maps, then the folders above these, and so on up to the source."""
    folders = sorted({path.rpartition("/")[0] for path in paths})
    level = _spread(folders, limit)
    groups = []
    while level:
        groups.append(level)
        level = sorted({folder.rpartition("/")[0] for folder in level if folder})
    return groups


def _chosen_by_folder(candidates: Sequence[str]) -> list[str]:
    """Return the most explicit class list of each folder."""
    chosen: dict[str, str] = {}
    for path in candidates:
        chosen.setdefault(path.rpartition("/")[0], path)
    return list(chosen.values())


def _compare(root: str, paths: Sequence[str], classes: ClassList, key: str | None) -> str:
    """Compare some label maps with a class list with colors.

    Returns "ids" if they contain its ids, "colors" if they contain its colors, or why they contain neither.
    Where both are possible, colors count in color images, and in images whose palette renumbers the ids.
    """
    known_ids = {class_id for class_id, _ in classes.names} | {IGNORE}
    id_of_color = {red << 16 | green << 8 | blue: i for red, green, blue, i in classes.colors}
    ids_match = colors_match = True
    prefer_colors = False
    reason = ""
    compared = 0
    for path in paths:
        header, ids, colors = _example(root, path, key)
        if ids is None and colors is None:
            continue
        compared += 1
        ids_match &= ids is not None and ids.keys() <= known_ids
        unknown = sorted(colors.keys() - id_of_color.keys()) if colors is not None else []
        if unknown and not reason:
            reason = f"{path} contains the color #{unknown[0]:06x}, which it does not list"
        if colors is None or unknown:
            colors_match = False
            continue
        prefer_colors |= header is not None and header.color
        prefer_colors |= ids is not None and {id_of_color[c]: n for c, n in colors.items()} != ids
    if not compared:
        return "no label map could be read"
    if colors_match and (prefer_colors or not ids_match):
        return "colors"
    return "ids" if ids_match else reason or "the label maps contain other ids"


def _example(
    root: str, path: str, key: str | None
) -> tuple[Peek | None, dict[int, int] | None, dict[int, int] | None]:
    """Return the header of a label map, its ids and its colors with their pixels; None if not readable."""
    try:
        if extension(path) in READ_HERE:
            return _read_example(current_roots(), root, path, key)
        return isolated.call(_read_example, current_roots(), root, path, key)
    except (OSError, UnreadableSample):
        return None, None, None


def _read_example(
    allowed: Sequence[str] | None, root: str, path: str, key: str | None
) -> tuple[Peek | None, dict[int, int] | None, dict[int, int] | None]:
    try:
        with restricted(allowed), open_bytes(root, path) as file:
            header = peek(path, file)
            file.seek(0)
            ids = _histogram(path, file, key, colors=False)
            file.seek(0)
            return header, ids, _histogram(path, file, None, colors=True)
    except OSError:
        return None, None, None


def _histogram(path: str, file: BinaryIO, key: str | None, *, colors: bool) -> dict[int, int] | None:
    """Return id or color → pixels of a label map; None if it cannot be read."""
    counts: Counter[int] = Counter()
    try:
        label_map = open_label_map(path, file, EXAMPLE_PIXELS, key=key, colors=colors)
        if label_map.histogram is not None:
            histograms: Iterable[tuple[NDArray[Any], NDArray[np.int64]]] = [label_map.histogram()]
        else:
            histograms = (np.unique(chunk, return_counts=True) for chunk in label_map.chunks)
        for values, pixels in histograms:
            ids = values.astype(np.int64)
            ids = ids if label_map.meaning is None else label_map.meaning(ids)
            counts.update(dict(zip(ids.tolist(), pixels.tolist(), strict=True)))
    except UnreadableSample:
        return None
    return dict(counts)


def _scaled(root: str, paths: Sequence[str]) -> str:
    """Return how many of some NIfTI files have a scale; "" if none has."""
    volumes = [path for path in paths if extension(path) in (".nii", ".nii.gz")]
    chosen = _spread(volumes, REMOTE_HEADERS if is_url(root) else HEADERS)
    scaled = 0
    for path in chosen:
        with suppress(OSError, UnreadableSample):
            has_scale = partial(_has_scale, current_roots(), root, path)
            scaled += bool(read_here(root, path, has_scale))
    return f"{scaled} of {len(chosen)} NIfTI files examined have a scale" if scaled else ""


def _has_scale(allowed: Sequence[str] | None, root: str, path: str) -> bool:
    from statsvc_workers.formats import nifti

    with restricted(allowed), open_bytes(root, path) as file:
        return nifti.has_scale(file)


def _nodata_of(allowed: Sequence[str] | None, root: str, path: str) -> int | None:
    from statsvc_workers.formats import tiff

    with restricted(allowed), open_bytes(root, path) as file:
        return tiff.nodata(file)


def _nodata(root: str, paths: Sequence[str]) -> tuple[dict[int, int], int]:
    """Return the nodata values of some GeoTIFF files → number of files, and the number of files examined."""
    found: Counter[int] = Counter()
    chosen = _spread(list(paths), REMOTE_HEADERS if is_url(root) else HEADERS)
    examined = 0
    for path in chosen:
        with suppress(OSError, UnreadableSample):
            examined += 1
            if (value := isolated.call(_nodata_of, current_roots(), root, path)) is not None:
                found[value] += 1
    return dict(found), examined


def _spread(items: list[str], count: int) -> list[str]:
    """Return at most `count` of the items, evenly spread."""
    step = max(1, len(items) / count)
    return [items[int(k * step)] for k in range(min(count, len(items)))]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
