"""The sampler that draws windows which contain a class."""

from __future__ import annotations

import hashlib
import logging
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.plain_values import plain
from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter
from statsvc.samplers.arguments import checked_integer, checked_rank
from statsvc.samplers.base import StatisticsSampler, inverse_cdf
from statsvc.samplers.sources import patch_source
from statsvc.samplers.windows import windows
from statsvc.sampling import path_join
from statsvc.sampling.patches import AXES, FIELDS

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from statsvc.client.client import Client
    from statsvc.local.scan import LocalTable

    Int64 = NDArray[np.int64]

_log = logging.getLogger("statsvc.samplers")

IMAGE_DEPTH = FIELDS.index("image_depth")
"""Column of `Patches.values` with the slices of an array; 1 for an image."""


class PatchSampler(StatisticsSampler):
    """Draws (index, window): an image and a crop of it that contains a class, rare classes more often.

    ::

        sampler = PatchSampler(label_paths, "http://stats:8000", dataset="camvid", crop=(256, 256))

        class Crops(torch.utils.data.Dataset):
            def __getitem__(self, item):
                index, window = item
                return crop(self.images[index], window), crop(self.labels[index], window)

    First a class is drawn, then a tile of the grid in proportion to the pixels of the class in it, then a
    window inside the image, uniformly among those that contain the tile. A window that is smaller than the
    tile lies in it instead, so it may miss the class. A window is (top, left, height, width) in pixels; it is
    smaller than `crop` where the image is. Draws are independent.

    Volumes and arrays are drawn with a crop of (depth, height, width); a depth of 1 draws slices. A window is
    then (front, top, left, depth, height, width). Arrays whose rows are parts (`--rows`) need no grid: the
    tile is the part, and the index is that of the file. No array is opened to find a class.

    paths          path of the label map, volume or array of each item, in the order of the PyTorch dataset
    source         URL of a server, a `Client`, or the result of `statsvc.scan`; default STATSVC_URL. The
                   dataset must have been counted on a grid
    crop           (height, width) of a window, or (depth, height, width)
    probabilities  class name or id → probability of drawing the class, in any scale; by default those of
                   rare-class sampling, softmax((1 − p)/temperature) with the share of pixels p
    temperature    temperature of the softmax, above 0
    min_pixels     pixels of the class that a tile must have, at least 1
    max_tiles      most tiles of a class, those with most pixels of it, which limits memory to 44 bytes each
    num_samples    draws per epoch over all ranks; default: one for each path
    params         `split` and `class_map`

    The other arguments, seeds, ranks and `state_dict` are as in `StatisticsSampler`. Tiles of images that are
    not among `paths` are never drawn. The logger `statsvc.samplers` names the classes without a tile in
    `paths`.

    Raises `InvalidParameter` for malformed arguments, where no tile with a class is in `paths`, and for
    classes in `probabilities` without a tile there; and the errors of `Client.patches`.
    """

    sampler = "patches"

    def __init__(  # not that of the base class: there are no probabilities of whole images
        self,
        paths: Sequence[str | os.PathLike[str]],
        source: str | Client | LocalTable | None = None,
        *,
        crop: tuple[int, ...],
        dataset: str | None = None,
        version: int | str | None = None,
        probabilities: Mapping[str | int, float] | None = None,
        temperature: float = 0.01,
        min_pixels: int = 1,
        max_tiles: int = 250_000,
        seed: int = 0,
        num_samples: int | None = None,
        rank: int | None = None,
        num_replicas: int | None = None,
        root: str | os.PathLike[str] | None = None,
        **params: Any,
    ) -> None:
        self._given_rank = checked_rank(rank, num_replicas)
        if not isinstance(crop, tuple | list) or len(crop) not in (2, 3):
            raise InvalidParameter(("crop", f"{crop!r} must be (height, width) or (depth, height, width)"))
        self.crop = tuple(checked_integer("crop", length, minimum=1) for length in crop)
        self.seed, self.epoch = checked_integer("seed", seed, minimum=0), 0
        draws = len(paths) if num_samples is None else num_samples
        self.num_samples = checked_integer("num_samples", draws, minimum=1)
        self._start = self._yielded = 0
        self._finished, self._ranks_of_iterator = False, 1
        selection = {
            "min_pixels": checked_integer("min_pixels", min_pixels, minimum=1),
            "most": checked_integer("max_tiles", max_tiles, minimum=1),
        }
        weights, patches_of = patch_source(source, dataset, version, selection, params)
        counted = [row for row in weights.classes if not row.get("ignored") and not row.get("absent")]
        wanted = _class_probabilities(counted, probabilities, temperature)
        self._classes: list[tuple[float, NDArray[np.integer[Any]]]] = []
        without_tiles: list[str] = []
        for class_id, probability in wanted.items():
            tiles = patches_of(class_id)
            if len(crop) == 2 and (tiles.values[:, IMAGE_DEPTH] > 1).any():
                raise InvalidParameter(
                    (
                        "crop",
                        f"{crop!r} is for images, but {tiles.paths[0]} is a volume; give (depth, height, "
                        "width), where a depth of 1 draws slices",
                    )
                )
            known_paths = sorted(set(tiles.paths))
            matches = path_join.join(paths, known_paths, root)
            item_of = {known_paths[k]: item for item, k in enumerate(matches.tolist()) if k >= 0}
            items = np.array([item_of.get(path, -1) for path in tiles.paths], np.int64)
            known = np.column_stack([items, tiles.values])[items >= 0]
            if len(known):
                fits = known.max() <= np.iinfo(np.int32).max
                self._classes.append((probability, known.astype(np.int32) if fits else known))
            else:
                without_tiles.append(str(tiles.head["name"]))
        if not self._classes:
            raise InvalidParameter(("paths", "no tile with one of the classes is in an image of paths"))
        if without_tiles:
            names = ", ".join(without_tiles)
            message = f"no image of paths has a tile with at least {plural(min_pixels, 'pixel')} of {names}"
            if probabilities is not None:
                raise InvalidParameter(("probabilities", f"{message}; leave out these classes"))
            _log.warning("%s: %s, so these classes are not drawn", weights.dataset, message)
        self._items, self._dataset, self._version = len(paths), weights.dataset, weights.version

    def _draw(self, random: np.random.Generator) -> Int64:
        """Return item, first pixel and size of every draw of an epoch, int64 [num_samples, 7]."""
        chance = np.array([probability for probability, _ in self._classes])
        chosen = inverse_cdf(chance, random.random(self.num_samples))
        quantiles = random.random((4, self.num_samples))
        drawn = np.zeros((self.num_samples, 7), np.int64)
        crop = (1, *self.crop)[-AXES:]
        for k, (_, tiles) in enumerate(self._classes):
            rows = np.flatnonzero(chosen == k)
            pixels = tiles[:, -1].astype(np.float64)
            tile = tiles[inverse_cdf(pixels, quantiles[0, rows])].astype(np.int64)
            drawn[rows, 0] = tile[:, 0]
            starts, lengths, sizes = tile[:, 1:4], tile[:, 4:7], tile[:, 7:10]
            for axis in range(AXES):
                start, length = windows(
                    starts[:, axis], lengths[:, axis], sizes[:, axis], crop[axis], quantiles[1 + axis, rows]
                )
                drawn[rows, 1 + axis], drawn[rows, 4 + axis] = start, length
        return drawn

    def _item(self, drawn: list[int]) -> tuple[int, tuple[int, ...]]:
        item, front, top, left, depth, height, width = drawn
        if len(self.crop) == 2:
            return item, (top, left, height, width)
        return item, (front, top, left, depth, height, width)

    @property
    def probability(self) -> NDArray[np.float64]:
        """Not known: a patch sampler draws windows, not whole images. Raises `TypeError`."""
        raise TypeError("a PatchSampler has no probability for each image")

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of a hash over the tiles, the probabilities of the classes and the crop."""
        text = hashlib.sha256(repr(self.crop).encode())
        for probability, tiles in self._classes:
            text.update(f"{probability:.12g}".encode() + tiles.astype("<i8").tobytes())
        return text.hexdigest()[:16]


def _class_probabilities(
    counted: Sequence[Mapping[str, Any]],
    probabilities: Mapping[str | int, float] | None,
    temperature: float,
) -> dict[int, float]:
    """Return class id → probability; classes with probability 0 are left out."""
    width = plain(temperature)
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < math.inf:
        raise InvalidParameter(("temperature", f"must be a finite number above 0, not {temperature!r}"))
    if not counted:
        raise InvalidParameter(("source", "has no pixels of a class that is not ignored"))
    if probabilities is None:
        shares = np.array([row["frequency"] for row in counted])
        odds = np.exp((shares.min() - shares) / width)
        return dict(zip((row["id"] for row in counted), (odds / odds.sum()).tolist(), strict=True))
    id_of = {key: row["id"] for row in counted for key in (row["id"], row["name"])}
    wanted: dict[int, float] = {}
    for given, value in probabilities.items():
        key, number = plain(given), plain(value)
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if key not in id_of or not is_number or not 0 <= number < math.inf:
            raise InvalidParameter(
                ("probabilities", f"{key!r}: {value!r} must be a counted class and a number of at least 0")
            )
        if number > 0:
            wanted[id_of[key]] = wanted.get(id_of[key], 0.0) + float(number)
    if not wanted:
        raise InvalidParameter(("probabilities", "has no class with a number above 0"))
    return wanted
