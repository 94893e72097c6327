"""COCO JSON: panoptic segmentation with its PNG folder beside it, and instance or stuff annotations.

Format: https://cocodataset.org/#format-data. The JSON is parsed once, when the source is listed; each sample
carries the part of it that is its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.base import COPY_AGAIN
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import is_folder, reading

MOST_NAMED = 65536


def listed(root: str, path: str, key: str | None) -> tuple[list[Member], tuple[str, ...]]:
    """Return the images that a COCO JSON annotates, and the names of its categories.

    Raises `UnreadableSample` for JSON that is none of COCO's.
    """
    del key
    try:
        with reading(root, path) as file:
            content = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise UnreadableSample(f"is no JSON, or is damaged ({error}); {COPY_AGAIN}") from None
    try:
        names = _names(content["categories"])
        annotations = content["annotations"]
        if annotations and "segments_info" in annotations[0]:
            return _panoptic(root, path, annotations), names
        return _instances(path, content["images"], annotations, names), names
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UnreadableSample):
            raise
        raise UnreadableSample(
            f"is not COCO's JSON of panoptic, instance or stuff annotations "
            f"({type(error).__name__}: {error}); "
            "name the annotation file, or a folder of label maps"
        ) from None


def _names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of the category ids 0 … n−1, the id itself where there is no such category."""
    names = {int(category["id"]): str(category["name"]) for category in categories}
    if not names:
        raise UnreadableSample("names no categories; take the JSON as it was published")
    highest = max(names)
    if min(names) < 0 or highest >= MOST_NAMED:
        raise UnreadableSample(f"has categories with ids {min(names)} to {highest}, which are no classes")
    return tuple(names.get(k, str(k)) for k in range(highest + 1))


def _panoptic(root: str, path: str, annotations: list[dict[str, Any]]) -> list[Member]:
    here = PurePosixPath(path).parent
    beside = here / PurePosixPath(path).stem
    first = str(annotations[0]["file_name"])
    folder = beside if is_folder(root, str(beside), first) else here
    members = []
    for annotation in annotations:
        name = PurePosixPath(str(annotation["file_name"]))
        if name.is_absolute() or ".." in name.parts:
            raise UnreadableSample(f"names the file {str(name)!r}, outside its own folder")
        picture = str(folder / name)
        segments = {int(info["id"]): int(info["category_id"]) for info in annotation["segments_info"]}
        members.append(Member(picture, picture, "panoptic", segments, 1 << 16, (path,)))
    return members


def _instances(
    path: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: tuple[str, ...]
) -> list[Member]:
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        kept = {"category": int(annotation["category_id"]), "segmentation": annotation["segmentation"]}
        if not 0 <= kept["category"] < len(names):
            raise UnreadableSample(f"annotates the category {kept['category']}, which it does not name")
        of_image[annotation["image_id"]].append(kept)
    # Category 0, where there is one, is a class; elsewhere 0 is what it is to everybody, the background.
    background = -1 if names[0] != "0" else 0
    members = []
    for image in images:
        size = (int(image["height"]), int(image["width"]))
        described = {"size": size, "background": background, "annotations": of_image.get(image["id"], [])}
        where = json.dumps(described).encode()
        members.append(Member(f"{path}/{image['file_name']}", path, "annotations", where, len(where)))
    return members
