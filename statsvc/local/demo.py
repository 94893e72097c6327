"""Demo label maps: synthetic street scenes with common, rare and ignored ids, reproducible by seed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    LabelMap = NDArray[np.uint8]

CLASS_NAMES = (
    "sky",
    "building",
    "road",
    "pavement",
    "tree",
    "fence",
    "pole",
    "traffic sign",
    "traffic light",
    "car",
    "pedestrian",
    "bicyclist",
)
"""Names of the class ids 0 … 11 of the demo label maps."""

VOID = 255
"""The ignored id of the border around each scene."""

_ID = {name: class_id for class_id, name in enumerate(CLASS_NAMES)}
_MARKER = ".statsvc-demo"
_FRAME = re.compile(r"frame_\d{6}\.png(\.part)?")
_VAL_EVERY = 5
"""Every fifth frame belongs to the split val."""

_MIN_SIDE = 32
"""Least width and height of a scene, in pixels."""

_COMPRESSION_LEVEL = 1
"""zlib level of the PNGs: on these flat scenes three times as fast as Pillow's default of 6."""


def make_demo(
    folder: str | Path,
    *,
    images: int = 240,
    size: tuple[int, int] = (512, 256),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write label maps as 8-bit grayscale PNGs to `folder`/train and, every fifth one, `folder`/val.

    size      (width, height) in pixels, at least (32, 32)
    seed      the pixels depend only on `seed`, `size` and the number of the frame
    progress  called as `progress(done, images)` after each frame

    The frames are named `frame_000001.png` and so on. A folder that already contains these frames is not
    changed; other demo frames in it are replaced, and an interrupted run is completed.

    Raises `InvalidParameter` for a folder that contains anything else, or an impossible number or size.
    Needs Pillow (`statsvc[workers]`).
    """
    from PIL import Image

    if images < 1:
        raise InvalidParameter(("images", f"{images} is not a number of images. Use 1 or more."))
    if min(size) < _MIN_SIDE:
        raise InvalidParameter(
            ("size", f"{size[0]}x{size[1]} is too small for a scene. Use {_MIN_SIDE}x{_MIN_SIDE} or more.")
        )
    folder = Path(folder)
    _claim(folder, {"images": images, "size": list(size), "seed": seed})
    for number in range(1, images + 1):
        split = "val" if number % _VAL_EVERY == 0 else "train"
        path = folder / split / f"frame_{number:06d}.png"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(path.name + ".part")
            scene = Image.fromarray(street_scene(number, size, seed))
            scene.save(temporary, format="PNG", compress_level=_COMPRESSION_LEVEL)
            temporary.rename(path)
        if progress is not None:
            progress(number, images)
    return folder


def _claim(folder: Path, request: dict[str, object]) -> None:
    """Remove demo frames of another request. Raises `InvalidParameter` for a folder with other contents."""
    marker = folder / _MARKER
    if folder.exists() and not folder.is_dir():
        raise InvalidParameter(("folder", f"{folder} is a file. Name a new or empty folder."))
    if marker.exists():
        if marker.read_text() == json.dumps(request):
            return
        for path in [*folder.glob("train/*"), *folder.glob("val/*")]:
            if _FRAME.fullmatch(path.name):
                path.unlink()
    elif folder.exists() and any(folder.iterdir()):
        raise InvalidParameter(
            (
                "folder",
                f"{folder} is not empty and was not created by this command. Name a new or empty folder.",
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(request))


def street_scene(number: int, size: tuple[int, int] = (512, 256), seed: int = 0) -> LabelMap:
    """Return one label map, uint8 [height, width]: class ids 0 … 11 of `CLASS_NAMES`, 255 for the border.

    Small objects are rare, as in real streets: about one scene in six has a traffic light, one in five a
    bicyclist.
    """
    rng = np.random.default_rng([seed, number])
    width, height = size
    scene = np.full((height, width), _ID["sky"], np.uint8)
    horizon = int(height * rng.uniform(0.40, 0.52))
    _houses(scene, horizon, rng)
    _ground(scene, horizon, rng)
    for _ in range(rng.integers(0, 4)):
        _tree(scene, horizon, rng)
    for _ in range(rng.integers(1, 5)):
        _pole(scene, horizon, rng)
    # Draw distant objects first, so that near objects cover them.
    for depth in np.sort(rng.random(rng.integers(0, 5))):
        _object(scene, horizon, "car", depth, (0.22, 0.13), rng)
    for depth in np.sort(rng.random(rng.integers(0, 4))):
        _object(scene, horizon, "pedestrian", depth, (0.025, 0.14), rng)
    if rng.random() < 0.2:
        _object(scene, horizon, "bicyclist", rng.random(), (0.04, 0.13), rng)
    frame = max(1, height // 128)
    scene[:frame], scene[-frame:], scene[:, :frame], scene[:, -frame:] = VOID, VOID, VOID, VOID
    return scene


def _houses(scene: LabelMap, horizon: int, rng: np.random.Generator) -> None:
    """Draw a row of houses on the horizon, with gaps, and a fence in some of the gaps."""
    height, width = scene.shape
    left = 0
    while left < width:
        right = left + int(width * rng.uniform(0.08, 0.25)) + 1
        if rng.random() < 0.8:
            scene[int(horizon * rng.uniform(0.05, 0.7)) : horizon, left:right] = _ID["building"]
        elif rng.random() < 0.5:
            scene[horizon - max(2, height // 20) : horizon, left:right] = _ID["fence"]
        left = right


def _ground(scene: LabelMap, horizon: int, rng: np.random.Generator) -> None:
    """Draw the pavement below the horizon, and on it the road, which narrows toward the horizon."""
    height, width = scene.shape
    scene[horizon:] = _ID["pavement"]
    near = np.linspace(0.0, 1.0, height - horizon)[:, None]
    middle = width * (0.5 + rng.uniform(-0.15, 0.15) * (1 - near))
    half = width * (0.04 + rng.uniform(0.40, 0.55) * near)
    scene[horizon:][np.abs(np.arange(width) - middle) < half] = _ID["road"]


def _tree(scene: LabelMap, horizon: int, rng: np.random.Generator) -> None:
    """Draw a round crown whose trunk stands on the horizon."""
    height, width = scene.shape
    radius = int(height * rng.uniform(0.06, 0.2))
    across, down = int(width * rng.random()), horizon - int(radius * rng.uniform(1.1, 1.6))
    top, left = max(0, down - radius), max(0, across - radius)
    window = scene[top : max(0, down + radius), left : across + radius]
    rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    window[(rows - down) ** 2 + (columns - across) ** 2 < radius**2] = _ID["tree"]
    thick = max(1, radius // 6)
    scene[max(0, down) : horizon + thick, max(0, across - thick) : across + thick] = _ID["tree"]


def _pole(scene: LabelMap, horizon: int, rng: np.random.Generator) -> None:
    """Draw a pole, sometimes with a traffic sign or a traffic light."""
    height, width = scene.shape
    left, thick = int(width * rng.random()), max(1, width // 256)
    top, foot = int(horizon * rng.uniform(0.2, 0.6)), horizon + int(height * rng.uniform(0.02, 0.2))
    scene[top:foot, left : left + thick] = _ID["pole"]
    kind = rng.random()
    if kind < 0.4:
        side = max(2, int(height * rng.uniform(0.02, 0.05)))
        scene[top : top + side, max(0, left - side // 2) : left + side] = _ID["traffic sign"]
    elif kind < 0.47:
        side = max(1, height // 64)
        scene[top : top + 3 * side, left : left + side] = _ID["traffic light"]


def _object(
    scene: LabelMap,
    horizon: int,
    name: str,
    depth: float,
    extent: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Draw an object on the ground.

    depth   0 at the horizon, 1 next to the camera
    extent  (width, half the height) at depth 1, as fractions of the size of the scene
    """
    height, width = scene.shape
    scale = 0.15 + 0.85 * depth
    foot = horizon + int((height - horizon) * (0.05 + 0.9 * depth))
    top = max(0, foot - max(2, int(height * extent[1] * scale * 2)))
    left = int(width * rng.uniform(-0.05, 1.0))
    right = left + max(2, int(width * extent[0] * scale))
    scene[top:foot, max(0, left) : max(0, right)] = _ID[name]
