"""Errors of a source whose files are of no known kind, or of several, with messages for its owner."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from statsvc.common.object_urls import is_url
from statsvc.common.plurals import plural
from statsvc.dataset.counting_rule import MASKS
from statsvc.dataset.known_layouts import LAYOUTS
from statsvc.dataset.selection import quoted
from statsvc.errors import AmbiguousSource, SourceError
from statsvc_workers.formats import FORMATS
from statsvc_workers.formats.convert import COMMANDS, advice
from statsvc_workers.samples.kinds import CONTAINERS
from statsvc_workers.samples.open_sample import open_bytes
from statsvc_workers.samples.roots import OutsideRoots
from statsvc_workers.sources.listing_errors import EXAMPLES, empty, printable, shown
from statsvc_workers.sources.patterns import matcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statsvc.dataset.known_layouts import Layout
    from statsvc_workers.sources.detection import FileKind

LABELME = b'"shapes"'
"""Part of every file of labelme."""

JSON_HEAD = 1 << 20
"""Bytes of a JSON file that are searched for the keys of COCO annotations."""


def nothing_readable(root: str, names: list[str]) -> SourceError:
    """Return the error for a source without any label map."""
    if not names:
        return empty(root)
    counts = Counter(Path(name).suffix.lower() for name in names)
    summary = ", ".join(
        plural(count, f"{shown(extension)} file")
        if extension
        else f"{plural(count, 'file')} without an extension"
        for extension, count in counts.most_common(EXAMPLES)
    )
    documents = [name for name in sorted(names) if name.lower().endswith(".json")]
    annotations = [name for name in documents if _is_coco(_head(root, name))]
    known = [layout for layout in json_layouts() if any(map(matcher(layout.pattern), names))]
    if len(annotations) > 1 and known:
        folder = shlex.quote(root)
        commands = "; ".join(f"statsvc scan {folder} --layout {layout.name}" for layout in known)
        return SourceError(
            f"{root} contains no label maps in a supported format, only {summary}, but COCO annotations. "
            f"Choose one kind: {commands}"
        )
    if any(name.lower().endswith(".mhd") for name in names):
        return SourceError(
            f"{root} contains no label maps in a supported format, only {summary}, but MetaImage headers. If "
            "they belong to label maps, not to images, choose them, for example: "
            f"statsvc scan {shlex.quote(root)} --pattern {quoted('**/*.mhd')}"
        )
    if not annotations and any(LABELME in _head(root, name) for name in documents[:EXAMPLES]):
        return SourceError(
            f"{root} contains no label maps in a supported format, only {summary}, but labelme files: "
            f"statsvc scan {shlex.quote(root)} --pattern {quoted('**/*.json')}"
        )
    if annotations:
        file = shlex.quote(f"{root}/{annotations[0]}")
        return SourceError(
            f"{root} contains no label maps in a supported format, only {summary}, but {annotations[0]} "
            f"contains COCO annotations: statsvc scan {file}"
        )
    convertible = next((name for name in sorted(names) if Path(name).suffix.lower() in COMMANDS), names[0])
    lossy = " (JPEG is lossy, so it cannot store labels)" if counts.keys() & {".jpg", ".jpeg"} else ""
    how = f". To {advice(convertible)}" if Path(convertible).suffix.lower() in COMMANDS else ""
    return SourceError(
        f"{root} contains no label maps in a supported format, only {summary}{lossy}; pass the folder of the "
        f"label maps{how.replace('To convert it', 'To convert one')}. Supported are {supported()}"
    )


def json_layouts() -> list[Layout]:
    """Return the known layouts whose label maps are in JSON files."""
    return [layout for layout in LAYOUTS if layout.pattern.endswith(".json")]


def supported() -> str:
    """Return the extensions of label maps and containers that are read."""
    return ", ".join([*sorted(FORMATS), *sorted(CONTAINERS), "Zarr folders"])


def _is_coco(head: bytes) -> bool:
    """Whether the start of a JSON file looks like COCO annotations."""
    return sum(key in head for key in (b'"images"', b'"annotations"', b'"categories"')) > 1


def _head(root: str, name: str) -> bytes:
    """Return the start of a file in a folder; nothing where it cannot be read."""
    if is_url(root):
        return b""
    try:
        with open_bytes(root, name) as file:
            return file.read(JSON_HEAD)
    except (OSError, OutsideRoots):
        return b""


def ambiguous(
    root: str,
    kinds: Sequence[FileKind],
    pattern: str | None = None,
    *,
    layout: Layout | None = None,
    masks: bool = False,
) -> AmbiguousSource:
    """Return the error for a source with several kinds of label map; it lists a --pattern for each.

    pattern  the pattern that matched all of them, if the user gave one
    layout   the detected layout
    masks    whether the label maps may be one binary mask per class
    """
    choices = [kind for kind in kinds if not kind.image] or list(kinds)
    skipped = [kind for kind in kinds if kind not in choices]
    width = max(len(kind.pattern) for kind in choices) + 2
    lines = [f"  --pattern {quoted(kind.pattern):<{width}}  {printable(str(kind.group))}" for kind in choices]
    if layout is not None:
        lines.append(f"  --layout {layout.name:<{width + 1}}  {layout.title}: {quoted(layout.pattern)}")
    if masks:
        lines.append(
            f"  --rule {MASKS:<{width + 3}}  if each file is the mask of one class: merges those of a picture"
        )
    lines += [f"  (images: {quoted(kind.pattern)}  {printable(str(kind.group))})" for kind in skipped]
    where = root if pattern is None else f"the pattern {quoted(pattern)} in {root}"
    contains = "contains several kinds of label map" if pattern is None else "matches several kinds of file"
    if masks and len(choices) == 1:
        contains = "contains binary masks that are named like one mask per class"
    if pattern is not None and len(choices) == 1:
        contains = "matches images as well as label maps"
    return AmbiguousSource(
        f"{where} {contains}; choose one:\n" + "\n".join(lines), [kind.pattern for kind in choices]
    )


def photographs(root: str, kinds: Sequence[FileKind]) -> SourceError:
    """Return the error for a source whose files look like photographs."""
    lines = [f"  {quoted(kind.pattern)}  {printable(str(kind.group))}" for kind in kinds]
    return SourceError(
        f"{root}: every kind of file looks like a photograph or a scan, or like instance ids, not like class "
        "ids:\n"
        + "\n".join(lines)
        + "\nPass the folder of the label maps, or choose them with --pattern. If the values are class ids "
        "nevertheless, add --rule value"
    )
