"""labelme JSON: the shapes of one image. A file `labels.txt` gives the ids of the labels.

The file is the one that labelme's converters require: its first lines are `__ignore__` (id −1) and
`_background_` (id 0), followed by one label per line.
Source: examples/semantic_segmentation/labelme2voc.py in https://github.com/wkentaro/labelme.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from statsvc.errors import UnreadableSample
from statsvc_workers.containers.contents import Contents
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import exists, open_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = "labels.txt"
FIRST_LABELS = ["__ignore__", "_background_"]
MAX_LABELS_BYTES = 1 << 20
LISTED_LABELS = 8
"""Labels that an error message lists."""


def list_members(root: str, path: str, content: dict[str, Any]) -> Contents:
    """Return the image that a labelme file annotates, and the names of the labels.

    Raises `UnreadableSample` without a list of labels, and for a label that it lacks.
    """
    shapes = [
        {name: shape.get(name) for name in ("label", "points", "shape_type", "mask")}
        for shape in content["shapes"]
    ]
    used = sorted({str(shape["label"]) for shape in shapes})
    file = next((file for file in _candidates(path) if exists(root, file)), None)
    if file is None:
        lines = ", ".join([*FIRST_LABELS, *used[:LISTED_LABELS]])
        raise UnreadableSample(
            f"is a labelme file, whose labels have no ids; write the file {LABELS} next to it, or in a "
            f"folder above it in the source, with one label per line: {lines}, and those of other files"
        )
    names = _labels(root, file)
    id_of = {name: k for k, name in enumerate(names, -1)}
    if missing := [label for label in used if label not in id_of]:
        raise UnreadableSample(
            f"has labels that {file} lacks: {', '.join(missing[:LISTED_LABELS])}; add them at its end"
        )
    size = [content.get(name) for name in ("imageHeight", "imageWidth")]
    if not all(isinstance(length, int) for length in size):
        raise UnreadableSample("is a labelme file without the size of its image; save it again with labelme")
    for shape in shapes:
        shape["id"] = id_of[str(shape.pop("label"))]
    where = json.dumps({"size": size, "shapes": shapes}).encode()
    return Contents([Member(path, path, "labelme", where, len(where), (file,))], tuple(names[1:]))


def _candidates(path: str) -> Iterator[str]:
    """Yield where the list of labels may be: in the folder of a file, and in those above it in the source."""
    for folder in PurePosixPath(path).parents:
        yield str(folder / LABELS)


def _labels(root: str, path: str) -> list[str]:
    with open_bytes(root, path) as file:
        text = file.read(MAX_LABELS_BYTES + 1).decode(errors="replace")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if names[:2] != FIRST_LABELS or len(text) > MAX_LABELS_BYTES or len({*names}) < len(names):
        raise UnreadableSample(
            f"has a list of labels, {path}, that does not begin with the lines {' and '.join(FIRST_LABELS)}, "
            "or has a label twice; correct it as for labelme2voc.py"
        )
    return names
