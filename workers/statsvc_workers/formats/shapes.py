"""labelme's shapes of one image, drawn into a label map by Pillow, which labelme itself uses.

Shapes are drawn in the order of the file, so a later shape covers an earlier one; all other pixels are
background. Polygons include their outline. Lines and points are as wide as labelme draws them.
Source: `shapes_to_label` in labelme/utils/shape.py of https://github.com/wkentaro/labelme.
"""

from __future__ import annotations

import base64
import io
import json
import math
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from statsvc.errors import UnreadableSample
from statsvc_workers.formats.annotations import FAR_OUTSIDE
from statsvc_workers.formats.base import LabelMap, Mode, check_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

LINE_WIDTH, POINT_RADIUS = 10, 5

POINTS = {"circle": (2, 2), "rectangle": (2, 2), "line": (2, 2), "point": (1, 1), "mask": (2, 2)} | {
    "oriented_rectangle": (4, 4),
    "linestrip": (2, math.inf),
    "polygon": (3, math.inf),
}
"""Kind of a shape → its fewest and most points."""


def open_shapes(file: BinaryIO, max_pixels: int) -> LabelMap:
    """Open the shapes of an image, in the JSON form that `statsvc_workers.containers.labelme` writes.

    The JSON object contains `size` (height, width) and `shapes`.

    Raises `UnreadableSample` for a shape that cannot be drawn.
    """
    image = json.loads(file.read())
    height, width = image["size"]
    if height < 0 or width < 0:
        raise UnreadableSample(f"has the size {width} x {height}; save it again with labelme")
    check_pixels(height, width, max_pixels)
    return LabelMap(Mode.ARRAY, height, width, _drawn(image["shapes"], height, width), layout="rows")


def _drawn(shapes: list[dict[str, Any]], height: int, width: int) -> Iterator[NDArray[Any]]:
    canvas = np.zeros((height, width), np.int32)
    for number, shape in enumerate(shapes):
        try:
            _draw(canvas, shape)
        except (UnreadableSample, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, UnreadableSample) else "its values are damaged"
            raise UnreadableSample(f"has an invalid shape, number {number}: {reason}") from None
    yield canvas


def _draw(canvas: NDArray[np.int32], shape: dict[str, Any]) -> None:
    """Draw one shape. Raises `UnreadableSample`, `TypeError` and `ValueError`."""
    from PIL import Image, ImageDraw

    kind = shape["shape_type"] or "polygon"
    fewest, most = POINTS.get(kind, (0, 0))
    points = np.asarray(shape["points"], float)
    if not most:
        raise UnreadableSample(f"its kind {str(kind)[:40]!r} is unknown")
    if points.ndim != 2 or points.shape[1] != 2 or not fewest <= len(points) <= most:
        raise UnreadableSample(f"a {kind} cannot have the points {str(shape['points'])[:60]}")
    if not np.isfinite(points).all():
        raise UnreadableSample("its points are not finite")
    # Pillow takes time in proportion to the distance of points outside the image.
    far = FAR_OUTSIDE * max(canvas.shape)
    xy = [(x, y) for x, y in np.clip(points, -far, far).tolist()]
    if kind == "mask":
        _paste(canvas, shape, points)
        return
    (x, y), (other_x, other_y) = xy[0], xy[-1]
    drawn = Image.new("L", canvas.shape[::-1])
    draw = ImageDraw.Draw(drawn)
    if kind in ("circle", "point"):
        radius = POINT_RADIUS if kind == "point" else math.hypot(x - other_x, y - other_y)
        draw.ellipse(((x - radius, y - radius), (x + radius, y + radius)), outline=1, fill=1)
    elif kind == "rectangle":
        corners = (min(x, other_x), min(y, other_y)), (max(x, other_x), max(y, other_y))
        draw.rectangle(corners, outline=1, fill=1)
    elif kind in ("line", "linestrip"):
        draw.line(xy, fill=1, width=LINE_WIDTH)
    else:
        draw.polygon(xy, outline=1, fill=1)
    canvas[np.asarray(drawn) != 0] = shape["id"]


def _paste(canvas: NDArray[np.int32], shape: dict[str, Any], points: NDArray[np.float64]) -> None:
    """Draw a shape that is a PNG, whose first and last pixels are the two points."""
    from PIL.PngImagePlugin import PngImageFile

    (left, top), (right, bottom) = points.astype(int).tolist()
    size = right - left + 1, bottom - top + 1
    if not (0 <= left <= right < canvas.shape[1] and 0 <= top <= bottom < canvas.shape[0]):
        raise UnreadableSample("its mask is not inside the image")
    try:
        image = PngImageFile(io.BytesIO(base64.b64decode(shape["mask"])))
        if image.size != size:
            raise UnreadableSample(f"its mask has {image.size} pixels, its points {size} (width, height)")
        mask = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise UnreadableSample(f"its mask cannot be decoded ({type(error).__name__})") from None
    if mask.ndim != 2:
        raise UnreadableSample("its mask has several channels")
    canvas[top : bottom + 1, left : right + 1][mask != 0] = shape["id"]
