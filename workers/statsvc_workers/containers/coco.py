"""COCO JSON: panoptic segmentation with a folder of PNG files, and instance or stuff annotations.

A JSON file of labelme goes to `labelme`.

The JSON file is parsed once, when the source is listed; each sample contains its own part of it.
Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from statsvc.errors import UnreadableSample
from statsvc_workers.containers import labelme
from statsvc_workers.containers.contents import Contents
from statsvc_workers.formats.annotations import POLYGON_NUMBERS
from statsvc_workers.formats.base import COPY_AGAIN
from statsvc_workers.samples.members import Member
from statsvc_workers.samples.open_sample import is_folder, open_bytes

if TYPE_CHECKING:
    from typing import BinaryIO

MAX_CATEGORY_IDS = 65536
"""Category ids must be smaller than this."""

MAX_JSON_BYTES = 1 << 31
"""Largest JSON file, which is parsed as a whole; the annotations of COCO have 0.5 GB."""

BLOCK = 1 << 20
"""Bytes that are read in one step."""

PNG_BYTES = 1 << 16
"""Assumed size of a panoptic PNG file, which the JSON does not contain."""


def list_members(root: str, path: str, _key: str | None) -> Contents:
    """Return the images that a COCO JSON file annotates, and the names of its categories.

    Objects without segmentation are left out, and so are polygons of fewer than three points.

    Raises `UnreadableSample` for any other JSON.
    """
    try:
        with open_bytes(root, path) as file:
            content = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise UnreadableSample(f"is not valid JSON ({error}); {COPY_AGAIN}") from None
    try:
        if isinstance(content, dict) and "shapes" in content:
            return labelme.list_members(root, path, content)
        names = _category_names(content["categories"])
        annotations = content["annotations"]
        if annotations and "segments_info" in annotations[0]:
            return Contents(_panoptic(root, path, annotations), names)
        members = _instances(path, content["images"], annotations, names)
        boxes = sum(not _segmentation(annotation) for annotation in annotations)
        if 0 < boxes == len(annotations):
            raise UnreadableSample("contains boxes without segmentation; export the annotations with masks")
        note = f"{boxes} of {len(annotations)} objects are boxes without segmentation and were left out"
        return Contents(members, names, note if boxes else "")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UnreadableSample):
            raise
        # The text of other errors can quote the file, which may be no annotation file at all.
        reason = f"KeyError: {error}" if isinstance(error, KeyError) else type(error).__name__
        raise UnreadableSample(
            f"is not a COCO JSON file of panoptic, instance or stuff annotations ({reason}), and no labelme "
            "file; pass the annotation file, or a folder of label maps"
        ) from None


def _read(file: BinaryIO) -> bytes:
    """Return the text of a JSON file. Raises `UnreadableSample` for a sparse file and other binary data."""
    blocks: list[bytes] = []
    while block := file.read(BLOCK):
        blocks.append(block)
        if len(blocks) * BLOCK > MAX_JSON_BYTES:
            raise UnreadableSample(f"has more than {MAX_JSON_BYTES} bytes; split it into several files")
        if b"\0" in block:
            raise UnreadableSample(f"is not valid JSON (it contains null bytes); {COPY_AGAIN}")
    return b"".join(blocks)


def _category_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of the category ids 0 … n−1; an id without a category has its number as name."""
    names = {int(category["id"]): str(category["name"]) for category in categories}
    if not names:
        raise UnreadableSample("contains no categories; use the JSON file as published")
    highest = max(names)
    if min(names) < 0 or highest >= MAX_CATEGORY_IDS:
        raise UnreadableSample(
            f"has category ids from {min(names)} to {highest}; they must be between 0 and "
            f"{MAX_CATEGORY_IDS - 1}"
        )
    return tuple(names.get(k, str(k)) for k in range(highest + 1))


def _panoptic(root: str, path: str, annotations: list[dict[str, Any]]) -> list[Member]:
    json_folder = PurePosixPath(path).parent
    # COCO publishes panoptic_val2017.json next to a folder panoptic_val2017.
    same_name = json_folder / PurePosixPath(path).stem
    first = str(_relative(str(annotations[0]["file_name"])))
    folder = same_name if is_folder(root, str(same_name), first) else json_folder
    members = []
    for annotation in annotations:
        name = _relative(str(annotation["file_name"]))
        image = str(folder / name)
        segments = {int(info["id"]): int(info["category_id"]) for info in annotation["segments_info"]}
        members.append(Member(image, image, "panoptic", segments, PNG_BYTES, (path,)))
    return members


def _relative(file_name: str) -> PurePosixPath:
    """Return the name of an image. Raises `UnreadableSample` for one outside the folder of the images."""
    name = PurePosixPath(file_name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise UnreadableSample(f"refers to the file {file_name!r}, outside its own folder")
    if not file_name.isprintable():
        raise UnreadableSample(f"refers to the file {file_name!r}, whose name contains control characters")
    return name


def _segmentation(annotation: dict[str, Any]) -> Any:
    """Return the segmentation of an object, without polygons of fewer than three points; falsy without any.

    Annotation tools export such polygons for clicks and lines. They contain no pixels.
    """
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, list):
        return segmentation
    return [p for p in segmentation if not (isinstance(p, list) and len(p) < POLYGON_NUMBERS)]


def _instances(
    path: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]], names: tuple[str, ...]
) -> list[Member]:
    of_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        category = int(annotation["category_id"])
        if not 0 <= category < len(names):
            raise UnreadableSample(f"annotates the category {category}, which its list of categories lacks")
        if segmentation := _segmentation(annotation):
            of_image[annotation["image_id"]].append({"category": category, "segmentation": segmentation})
    # Background pixels have id 0 by convention, and −1 where the dataset uses category 0 as a class.
    background = -1 if names[0] != "0" else 0
    members = []
    for image in images:
        size = (int(image["height"]), int(image["width"]))
        content = {"size": size, "background": background, "annotations": of_image.get(image["id"], [])}
        where = json.dumps(content).encode()
        name = _relative(str(image["file_name"]))
        members.append(Member(f"{path}/{name}", path, "annotations", where, len(where)))
    return members
