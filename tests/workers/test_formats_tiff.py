from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import Mode, open_label_map, tiff
from support import damage

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read(data: bytes, max_pixels: int = 1 << 40) -> Any:
    label_map = open_label_map("x.TIF", io.BytesIO(data), max_pixels)
    return label_map, np.concatenate([chunk.reshape(-1) for chunk in label_map.chunks])


def refusal(data: bytes, max_pixels: int = 1 << 40) -> str:
    with pytest.raises(UnreadableSample) as caught:
        read(data, max_pixels)
    return str(caught.value)


def same_pixels(values: Any, array: Any) -> None:
    for part, expected in zip(
        np.unique(values, return_counts=True), np.unique(array, return_counts=True), strict=True
    ):
        np.testing.assert_array_equal(part, expected)


LAYOUTS: dict[str, Any] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "padded tiles": {"tile": (16, 32)},
    "deflate": {"compression": "zlib", "rowsperstrip": 7},
    "deflate with predictor": {"compression": "zlib", "predictor": 2, "rowsperstrip": 7},
    "lzw tiles": {"compression": "lzw", "tile": (16, 16)},
    "zstd": {"compression": "zstd"},
    "packbits": {"compression": "packbits"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "u4"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_every_layout_has_the_written_pixels(layout: Any, dtype: Any, byteorder: Any, bigtiff: Any) -> None:
    low = -5 if dtype.startswith("i") else 0
    array = np.random.default_rng(0).integers(low, 20, (41, 53)).astype(dtype)
    data = damage.tiff(array, byteorder=byteorder, bigtiff=bigtiff, **LAYOUTS[layout])
    label_map, values = read(data)
    assert (label_map.mode, label_map.height, label_map.width) == (Mode.GRAY, 41, 53)
    same_pixels(values, array)
    same_pixels(values, tifffile.imread(io.BytesIO(data)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pages", [3, 4, 9])
def test_pages_are_a_volume(layout: Any, pages: Any) -> None:
    array = np.random.default_rng(0).integers(0, 6, (pages, 20, 24)).astype(np.uint8)
    data = damage.tiff(array, photometric="minisblack", **LAYOUTS[layout])
    label_map, values = read(data)
    assert (label_map.height, label_map.width) == (pages * 20, 24)
    same_pixels(values, array)


def test_separately_written_pages_form_a_volume() -> None:
    file = io.BytesIO()
    array = np.random.default_rng(0).integers(0, 6, (5, 20, 24)).astype(np.uint8)
    with tifffile.TiffWriter(file) as writer:
        for page in array:
            writer.write(page, contiguous=False, metadata=None, compression="zlib")
    label_map, values = read(file.getvalue())
    assert label_map.height == 100
    same_pixels(values, array)


def test_an_imagej_stack_is_a_volume() -> None:
    array = np.random.default_rng(0).integers(0, 6, (5, 20, 24)).astype(np.uint16)
    label_map, values = read(damage.tiff(array, imagej=True))
    assert label_map.height == 100
    same_pixels(values, array)


def test_only_the_full_resolution_of_a_pyramid_is_counted() -> None:
    array = np.random.default_rng(0).integers(0, 6, (64, 64)).astype(np.uint8)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(array, subifds=1, tile=(16, 16))
        writer.write(array[::2, ::2], subfiletype=1, tile=(16, 16))
    same_pixels(read(file.getvalue())[1], array)


def test_palette_gives_indices() -> None:
    array = np.random.default_rng(0).integers(0, 6, (20, 24)).astype(np.uint8)
    colours = np.random.default_rng(1).integers(0, 65535, (3, 256)).astype(np.uint16)
    label_map, values = read(damage.tiff(array, photometric="palette", colormap=colours))
    assert label_map.mode == Mode.PALETTE
    same_pixels(values, array)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packed_bits_give_raw_values(bits: Any) -> None:
    array = np.random.default_rng(0).integers(0, 1 << bits, (11, 13)).astype(np.uint8)
    packed = b"".join(
        np.packbits(((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).ravel()).tobytes() for row in array
    )
    same_pixels(read(classic(13, 11, bits, packed))[1], array)


def test_min_is_white_keeps_the_stored_value() -> None:
    array = np.random.default_rng(0).integers(0, 6, (20, 24)).astype(np.uint8)
    same_pixels(read(damage.tiff(array, photometric="miniswhite"))[1], array)


def test_large_segments_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "CHUNK_PIXELS", 100)
    array = np.random.default_rng(0).integers(0, 6, (64, 40)).astype(np.uint8)
    for options in ({}, {"compression": "zlib", "rowsperstrip": 64}):
        label_map = open_label_map("x.tiff", io.BytesIO(damage.tiff(array, **options)), 1 << 40)
        chunks = list(label_map.chunks)
        assert max(chunk.size for chunk in chunks) <= 100
        same_pixels(np.concatenate([chunk.ravel() for chunk in chunks]), array)


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.full((8, 8), 0.5, np.float32), {}, "0.5, which is not an integer"),
        (np.full((8, 8), np.nan), {"compression": "zlib"}, "nan, which is not an integer"),
        (np.zeros((8, 8), np.complex64), {}, "complex64"),
        (np.eye(8, 24, dtype=np.uint8).reshape(8, 8, 3), {"photometric": "rgb"}, "color-coded (3 samples"),
        (np.zeros((3, 8, 8), np.uint8), {"photometric": "rgb", "planarconfig": "separate"}, "color-coded"),
        (np.zeros((16, 16), np.uint8), {"compression": "jpeg"}, "lossy"),
    ],
)
def test_files_without_class_ids_are_rejected(array: Any, options: Any, words: Any) -> None:
    assert words in refusal(damage.tiff(array, **options))


def test_the_limit_counts_the_whole_volume() -> None:
    data = damage.tiff(np.zeros((10, 20, 20), np.uint8), photometric="minisblack")
    assert read(data, 4000)[1].size == 4000
    assert "(max_pixels)" in refusal(data, 3999)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_file_is_rejected(layout: Any, keep: Any) -> None:
    array = np.random.default_rng(0).integers(0, 255, (100, 100)).astype(np.uint8)
    refusal(damage.truncated(damage.tiff(array, **LAYOUTS[layout]), keep))


def test_a_strip_shorter_than_its_rows_is_rejected() -> None:
    refusal(classic(16, 16, 8, bytes(256), count=100))
    refusal(classic(16, 16, 8, bytes(256), offset=10**6))
    assert "lacks 1 of 1 strips" in refusal(classic(16, 16, 8, bytes(256), offset=0, count=0))


def sparse(nodata: bool) -> tuple[bytes, np.ndarray]:
    array = np.ones((32, 32), np.uint8)
    extra = [(42113, "s", 0, "7", True)] if nodata else []
    data = bytearray(
        damage.tiff(array, tile=(16, 16), compression="zlib", metadata=None, extratags=extra, byteorder="<")
    )
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        for code in (324, 325):
            width = {3: 2, 4: 4}[int(tags[code].dtype)]
            at = tags[code].valueoffset
            data[at : at + width] = bytes(width)
    array[:16, :16] = 7
    return bytes(data), array


def test_a_missing_tile_is_rejected_unless_the_file_declares_a_nodata_value() -> None:
    assert "lacks 1 of 4 tiles" in refusal(sparse(nodata=False)[0])
    data, expected = sparse(nodata=True)
    same_pixels(read(data)[1], expected)


def test_a_tag_with_a_length_of_gigabytes_is_rejected_without_reading_them() -> None:
    data = bytearray(damage.tiff(np.zeros((32, 32), np.uint8), rowsperstrip=4, metadata=None, byteorder="<"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        at = file.pages[0].tags[273].offset
    data[at + 4 : at + 8] = struct.pack("<I", 0xFFFFFFF0)
    refusal(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_mutated_file_is_read_or_rejected_but_never_fails_otherwise(data: Any) -> None:
    array = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    layout = data.draw(st.sampled_from(list(LAYOUTS)))
    content = bytearray(damage.tiff(array, **LAYOUTS[layout]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        label_map, values = read(bytes(content), 10**6)
    except UnreadableSample:
        return
    assert values.size == label_map.height * label_map.width


def classic(
    width: int, height: int, bits: int, pixels: bytes, offset: int | None = None, count: int | None = None
) -> bytes:
    """Return a little-endian TIFF of one strip, written by hand."""
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8 + 2 + 9 * 12 + 4 if offset is None else offset),
        (277, 1),
        (278, height),
        (279, len(pixels) if count is None else count),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def test_several_images_that_do_not_form_a_volume_are_rejected_and_overviews_are_ignored(
    tmp_path: Path,
) -> None:
    image = np.random.default_rng(0).integers(0, 7, (64, 64), np.uint8)
    several, overview = tmp_path / "several.tif", tmp_path / "overview.tif"
    with tifffile.TiffWriter(several) as writer:
        writer.write(image)
        writer.write(image[:32])
    with tifffile.TiffWriter(overview) as writer:
        writer.write(image, tile=(16, 16))
        writer.write(image[::2, ::2], tile=(16, 16), subfiletype=1)
    with several.open("rb") as file, pytest.raises(UnreadableSample, match="2 images"):
        open_label_map(several.name, file, 1 << 20)
    with overview.open("rb") as file:
        assert sum(chunk.size for chunk in open_label_map(overview.name, file, 1 << 20).chunks) == image.size


COLOURS = np.random.default_rng(5).integers(0, 256, (20, 4)).astype(np.uint8)


def colors_of(data: bytes) -> NDArray[np.int64]:
    label_map = open_label_map("x.tif", io.BytesIO(data), 1 << 40, colors=True)
    ids, counts = np.unique(
        np.concatenate([chunk.reshape(-1) for chunk in label_map.chunks]), return_counts=True
    )
    return np.repeat(label_map.meaning(ids.astype(np.int64)) if label_map.meaning else ids, counts)


def shown(data: bytes) -> NDArray[np.int64]:
    red, green, blue = np.moveaxis(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int64), -1, 0)
    colors: NDArray[np.int64] = red << 16 | green << 8 | blue
    return colors


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "packbits"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colors_equal_pillows(layout: Any, channels: Any) -> None:
    array = COLOURS[np.random.default_rng(1).integers(0, 20, (41, 53)), :channels]
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    data = damage.tiff(array, photometric="rgb", **extra, **LAYOUTS[layout])
    same_pixels(
        colors_of(data), array[..., 0].astype(np.int64) << 16 | array[..., 1].astype(int) << 8 | array[..., 2]
    )
    if channels == 3:
        same_pixels(colors_of(data), shown(data))


def test_palette_indices_and_gray_values_are_read_as_colors() -> None:
    array = np.random.default_rng(1).integers(0, 20, (41, 53)).astype(np.uint8)
    table = np.random.default_rng(2).integers(0, 1 << 16, (3, 256)).astype(np.uint16)
    for data in (damage.tiff(array, photometric="palette", colormap=table), damage.tiff(array)):
        same_pixels(colors_of(data), shown(data))


def test_colors_that_are_not_interleaved_bytes_are_rejected() -> None:
    for array, options in (
        (np.zeros((3, 4, 5), np.uint8), {"planarconfig": "separate"}),
        (np.zeros((4, 5, 3), np.uint16), {}),
    ):
        with pytest.raises(UnreadableSample, match="not interleaved RGB of 8 bits"):
            colors_of(damage.tiff(array, photometric="rgb", **options))
    with pytest.raises(UnreadableSample, match="truncated"):
        colors_of(damage.tiff(np.zeros((40, 50, 3), np.uint8), photometric="rgb")[:-100])
    with pytest.raises(UnreadableSample, match="over the limit of 100 "):
        open_label_map(
            "x.tif",
            io.BytesIO(damage.tiff(np.zeros((11, 10, 3), np.uint8), photometric="rgb")),
            100,
            colors=True,
        )
