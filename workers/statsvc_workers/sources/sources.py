"""Find the label maps at a location: return the source, with a pattern that selects one kind of label map."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from statsvc.common import object_urls
from statsvc.common.object_urls import SCHEMES, is_url
from statsvc.common.plurals import plural
from statsvc.common.utf8 import printable
from statsvc.dataset.counting_rule import VALUE, Counting
from statsvc.dataset.selection import FileGroup, Selection, quoted
from statsvc.dataset.splits import Split
from statsvc.errors import SourceError
from statsvc_workers.formats import extension
from statsvc_workers.samples import roots
from statsvc_workers.samples.kinds import DETECTED, is_container
from statsvc_workers.sources import remote_listing
from statsvc_workers.sources.class_masks import are_named_masks, may_be_masks
from statsvc_workers.sources.detection import FileKind, candidates, kinds, photo_files
from statsvc_workers.sources.errors import ambiguous, nothing_readable, photographs
from statsvc_workers.sources.folders import is_zarr_folder, walk
from statsvc_workers.sources.grouping import pattern_of_group
from statsvc_workers.sources.layouts import detect_layout
from statsvc_workers.sources.listing import Source
from statsvc_workers.sources.listing_errors import no_match
from statsvc_workers.sources.patterns import matcher, pattern_of
from statsvc_workers.sources.roles import Role
from statsvc_workers.sources.split_lists import listed_splits

if TYPE_CHECKING:
    from statsvc.dataset.known_layouts import Layout

MANY_LABELS = 1.5
"""So many label maps per image are noted: they may be masks of single objects."""

UNUSUAL = {role.value for role in (Role.INSTANCES, Role.PREDICTIONS, Role.AUXILIARY, Role.COPIES)}
"""Roles of files that are counted only because there are no label maps, which is noted."""


def open_source(
    location: str,
    pattern: str | None,
    counting: Counting | None = None,
    *,
    layout: Layout | None = None,
    trusted: bool = False,
) -> Source:
    """Return the source at `location`, a folder, file or URL; without `pattern`, detect the label maps.

    layout    the layout that the user names; its pattern is `pattern`
    counting  the rule and the name of the array by which the files will be counted
    trusted   whether the user says that the values are class ids, so that no file is taken for a photograph

    Raises `SourceError` where nothing can be counted or the files look like photographs, and
    `AmbiguousSource`, with one pattern for each kind, where the location contains several kinds of label map.
    """
    # Instance ids, a channel, or the classes along an axis do not look like class ids.
    others = counting is not None and counting.rule not in (VALUE, "palette")
    return _Opening(pattern, counting, layout, trusted or others).open(location)


class _Opening(Struct, frozen=True):
    """The arguments of `open_source` except the location."""

    pattern: str | None
    counting: Counting | None
    layout: Layout | None
    trusted: bool

    def open(self, location: str) -> Source:
        """Return the source at a location."""
        if is_url(location):
            root = object_urls.normalized(location)
            if (single_file := single_file_source(root)) is not None:
                if self.pattern is not None:
                    raise SourceError(
                        f"{root} is a single file or Zarr array; omit --pattern, or pass its folder"
                    )
                return self._single_file(single_file)
            return self._folder(root, remote_listing.walk_objects(root))
        path = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100 - `absolute` keeps ".."
        mode = _mode(location, path)
        if not stat.S_ISDIR(mode):
            if self.pattern is not None:
                raise SourceError(f"{path} is a single file; omit --pattern, or pass its folder")
            return self._single_file(Source(str(path.parent), pattern_of(path.name)))
        if _is_zarr(path):
            if self.pattern is not None:
                raise SourceError(
                    f"{path} is a single Zarr folder; omit --pattern, or pass its parent folder"
                )
            return Source(str(path.parent), pattern_of(path.name))
        return self._folder(str(path), [name for name, _ in walk(str(path))])

    def _single_file(self, source: Source) -> Source:
        """Return the source of one file. Raises `SourceError` if it looks like a photograph."""
        readable = candidates([re.sub(r"\\(.)", r"\1", source.pattern.removeprefix("/"))])
        if readable and not self.trusted:
            self._reject_photographs(source.root, kinds(source.root, readable, self.counting))
        return source

    def _folder(self, root: str, names: list[str]) -> Source:
        if self.counting is not None and self.counting.masks and self.pattern is None:
            return self._masks(root, names)
        return (
            self._detect(root, names) if self.pattern is None else self._matching(root, self.pattern, names)
        )

    def _masks(self, root: str, names: list[str]) -> Source:
        """Return the source of all files with the most frequent extension that are not images."""
        extensions = Counter(map(extension, candidates(names)))
        if not extensions:
            raise nothing_readable(root, names)
        ending = extensions.most_common(1)[0][0]
        paths = [path for path in candidates(names) if extension(path) == ending and path[-1] != "/"]
        is_image = [matcher(kind.pattern) for kind in kinds(root, paths, self.counting) if kind.photo]
        masks = [path for path in paths if not any(matches(path) for matches in is_image)]
        return Source(root, pattern_of_group(masks or paths, paths, [f"*{ending}"]))

    def _matching(self, root: str, pattern: str, names: list[str]) -> Source:
        """Return the source of a pattern; Zarr folders end in "/".

        Raises `SourceError` where no path matches, or where photographs match.
        """
        matches = matcher(pattern)
        paths = [path.rstrip("/") for path in names]
        if not any(matches(path) for path in paths):
            raise no_match(root, pattern, paths)
        readable = [path for path in candidates(path for path in names if path[-1] != "/") if matches(path)]
        counting = self.counting or Counting()
        if not readable or counting.rows != "array" or counting.masks:
            selection = None if self.layout is None else Selection(layout=self.layout.name)
            return Source(root, pattern, selection, self._layout_splits(paths))
        found = kinds(root, readable, self.counting)
        if not self.trusted:
            if any(kind.photo for kind in found) and not all(kind.photo for kind in found):
                raise ambiguous(root, found, pattern)
            self._reject_photographs(root, found)
        notes: tuple[str, ...] = ()
        if len(found) > 1:
            notes = (
                f"the pattern {quoted(pattern)} matches {len(found)} kinds of file, and each is counted: "
                + "; ".join(f"{quoted(kind.pattern)} ({kind.group})" for kind in found),
            )
        counted = FileGroup(
            pattern, len(readable), found[0].group.role, found[0].group.content, printable(min(readable))
        )
        layout = None if self.layout is None else self.layout.name
        return self._with_splits(
            Source(root, pattern, Selection((counted,), layout=layout, notes=notes)), names, readable
        )

    def _detect(self, root: str, names: list[str]) -> Source:
        """Return the source of the only kind of label map among these paths; Zarr folders end in "/".

        Raises `SourceError`.
        """
        readable = candidates(path for path in names if not path.endswith("/"))
        if not readable:
            return Source(root, _container_pattern(root, names))
        found = kinds(root, readable, self.counting, names)
        label_maps = [kind for kind in found if not kind.image]
        if not label_maps:
            # A folder whose name says that it contains images may contain label maps all the same.
            if not self.trusted:
                self._reject_photographs(root, found)
            label_maps = [kind for kind in found if self.trusted or not kind.photo]
        layout = detect_layout(names)
        paths = [path for kind in label_maps for path in filter(matcher(kind.pattern), readable)]
        binary = all(kind.binary for kind in label_maps)
        masks = binary and are_named_masks(paths)
        if len(label_maps) > 1 or masks:
            raise ambiguous(root, found, layout=layout, masks=masks or (binary and may_be_masks(paths)))
        if len(paths) != label_maps[0].group.files:
            raise SourceError(
                f"{root}: no pattern separates {label_maps[0].group} from the other files; pass the folder "
                "of the label maps"
            )
        pattern = label_maps[0].pattern
        skipped = [kind.group for kind in found if kind is not label_maps[0]] + photo_files(names)
        samples = paths
        notes = label_maps[0].notes
        images = sum(group.files for group in skipped if group.role == Role.IMAGES.value)
        if 0 < MANY_LABELS * images <= len(samples):
            numbers = f"{plural(len(samples), 'label map')} but {plural(images, 'image')}"
            notes = (*notes, f"{numbers}; each label map is counted")
        role = label_maps[0].group.role
        if role in UNUSUAL and skipped:
            notes = (*notes, f"the names of the counted files say {role}, not labels")
        if layout is not None and layout.advice:
            notes = (*notes, layout.advice)
        selection = Selection(
            (label_maps[0].group,), tuple(skipped), None if layout is None else layout.name, notes
        )
        opening = replace(self, layout=layout)
        return opening._with_splits(Source(root, pattern, selection), names, samples)

    def _with_splits(self, source: Source, names: list[str], samples: list[str]) -> Source:
        """Return the source with the splits that its files or its layout define."""
        listed = listed_splits(source.root, names, samples)
        notes = [
            f"{printable(path)} was ignored, because it could not be read as a list of splits: {reason}"
            for path, reason in listed.unreadable
        ]
        splits = listed.splits or self._layout_splits(samples)
        if listed.splits:
            sizes = (f"{name} ({sum(map(split.contains, samples))})" for name, split in splits.items())
            notes.append(f"splits {', '.join(sizes)} are defined by {printable(listed.files[0])}")
        if not notes:
            return replace(source, splits=splits)
        selection = source.selection or Selection()
        return replace(source, selection=replace(selection, notes=(*selection.notes, *notes)), splits=splits)

    def _layout_splits(self, samples: list[str]) -> dict[str, Split]:
        """Return the splits of the layout that contain samples; a container counts as a folder of them."""
        globs = {} if self.layout is None else self.layout.splits
        splits = {name: Split(glob=glob) for name, glob in globs.items()}
        names = [name for path in samples for name in (path, f"{path}/0")]
        return {name: split for name, split in splits.items() if any(map(split.contains, names))}

    def _reject_photographs(self, root: str, found: list[FileKind]) -> None:
        """Raise `SourceError` if every kind consists of photographs."""
        if all(kind.photo for kind in found):
            raise photographs(root, found)


def single_file_source(url: str) -> Source | None:
    """Return the source of a URL of one file or Zarr array; None for a folder.

    Raises `SourceError` where the URL does not exist.
    """
    root, name = remote_listing.split_location(object_urls.normalized(url))
    return Source(root, pattern_of(name)) if name else None


def _mode(location: str, path: Path) -> int:
    """Return the mode of a file or folder. Raises `SourceError`."""
    try:
        return roots.status(str(path)).st_mode
    except roots.OutsideRoots as error:
        raise SourceError(f"{path} {error}") from error
    except FileNotFoundError as error:
        if re.match(r"\w+://", location):
            raise SourceError(
                f"{location!r} has an unsupported URL scheme; pass a folder, a file, or a URL with one of "
                f"the schemes {', '.join(SCHEMES)}"
            ) from error
        raise SourceError(f"{path} does not exist; is the disk mounted?") from error
    except OSError as error:
        raise SourceError(
            f"{path} cannot be opened: {error.strerror}; check the path and its permissions"
        ) from error


def _is_zarr(path: Path) -> bool:
    try:
        return is_zarr_folder(path)
    except (OSError, roots.OutsideRoots):
        return False


def _container_pattern(root: str, names: list[str]) -> str:
    """Return the pattern of the Zarr folders or containers of a source without single label map files.

    Raises `SourceError`, also where the source contains several kinds of them.
    """
    patterns: Counter[str] = Counter()
    for name in names:
        suffix = Path(name).suffix
        if name.endswith("/"):
            patterns[f"*{suffix}" if suffix else name.rstrip("/").rpartition("/")[2]] += 1
        elif is_container(name, DETECTED):
            patterns[f"*{suffix}"] += 1
    if not patterns:
        raise nothing_readable(root, names)
    if len(patterns) > 1:
        raise ambiguous(
            root,
            [
                FileKind(FileGroup(pattern, count, None, "containers or arrays", _example(names, pattern)))
                for pattern, count in patterns.items()
            ],
        )
    return next(iter(patterns))


def _example(names: list[str], pattern: str) -> str:
    matches = matcher(pattern)
    return min(path for name in names if matches(path := name.rstrip("/")))
