"""BMP, GIF, WebP and colours against Pillow and `numpy.unique`."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import Mode, open_label_map
from support import damage

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGE = 1 << 40


def read(
    name: str, data: bytes, max_pixels: int = LARGE, *, colors: bool = False
) -> tuple[Any, NDArray[Any]]:
    label_map = open_label_map(name, io.BytesIO(data), max_pixels, colors=colors)
    values = np.concatenate([chunk.reshape(-1) for chunk in label_map.chunks])
    if label_map.meaning is not None:
        values = label_map.meaning(values.astype(np.int64))
    return label_map, values


def refusal(name: str, data: bytes, max_pixels: int = LARGE) -> str:
    with pytest.raises(UnreadableSample) as caught:
        read(name, data, max_pixels)
    return str(caught.value)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def palette_image(array: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(array, "L")
    image = image.copy()
    image.putpalette(colours.tobytes())
    return image


LABELS = np.random.default_rng(0).integers(0, 6, (13, 17)).astype(np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)


def same(values: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_array_equal(values.reshape(expected.shape), expected)


@pytest.mark.parametrize("form", ["BMP", "GIF"])
def test_a_palette_image_gives_its_indices(form: Any) -> None:
    label_map, values = read(f"a.{form.lower()}", saved(palette_image(LABELS, COLOURS), form))
    assert (label_map.mode, label_map.height, label_map.width) == (Mode.PALETTE, 13, 17)
    same(values, LABELS)


def test_gray_and_two_color_bmp_files_are_read() -> None:
    same(read("a.bmp", saved(Image.fromarray(LABELS), "BMP"))[1], LABELS)
    bits = LABELS > 2
    same(read("a.bmp", saved(Image.fromarray(bits), "BMP"))[1], bits)


def test_lossless_gray_webp_is_read_and_any_other_webp_is_rejected() -> None:
    grey = Image.fromarray(LABELS).convert("RGB")
    same(read("a.webp", saved(grey, "WEBP", lossless=True))[1], LABELS)
    assert "lossy" in refusal("a.webp", saved(grey, "WEBP", quality=95))
    coloured = Image.fromarray(COLOURS[LABELS])
    assert "color-coded" in refusal("a.webp", saved(coloured, "WEBP", lossless=True))
    frames = [Image.fromarray(COLOURS[LABELS + k]) for k in range(3)]
    moving = saved(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    assert "animation" in refusal("a.webp", moving)
    # With a profile the file has an extended header before its pixels.
    same(read("a.webp", saved(grey, "WEBP", lossless=True, exif=b"Exif\0\0II*\0"))[1], LABELS)


def test_a_gif_of_grays_gives_gray_values_whatever_indices_its_writer_chose() -> None:
    ids = np.array([0, 1, 7, 19, 254, 255], np.uint8)[LABELS]
    for picture in (ids, ids[:, ::-1], np.where(LABELS > 2, 255, 0).astype(np.uint8)):
        same(read("a.gif", saved(Image.fromarray(picture), "GIF"))[1], picture)
    # Indices remain ids where grays do not distinguish them, and where one color occurs.
    same(read("a.gif", saved(palette_image(LABELS, np.zeros((256, 3), np.uint8)), "GIF"))[1], LABELS)


def test_an_animated_gif_is_rejected() -> None:
    frames = [palette_image(np.roll(LABELS, k), COLOURS) for k in range(3)]
    assert "animation of 3 frames" in refusal(
        "a.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )


@pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a.webp"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_rejected(name: str, keep: Any) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 70)).astype(np.uint8))
    options = {"lossless": True} if name == "a.webp" else {}
    data = saved(image, name[2:].upper(), **options)
    refusal(name, data[: int(len(data) * keep)])


@pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a.webp"])
def test_the_limit_is_checked_before_a_image_is_decoded(name: str) -> None:
    options = {"lossless": True} if name == "a.webp" else {}
    data = saved(Image.fromarray(LABELS).convert("RGB" if options else "L"), name[2:].upper(), **options)
    assert read(name, data, LABELS.size)[1].size == LABELS.size
    assert "max_pixels" in refusal(name, data, LABELS.size - 1)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_mutated_image_is_read_or_rejected_but_never_fails_otherwise(data: Any) -> None:
    name = data.draw(st.sampled_from(["a.bmp", "a.gif", "a.webp"]))
    options = {"lossless": True} if name == "a.webp" else {}
    image = Image.fromarray(LABELS).convert("RGB" if options else "L")
    content = bytearray(saved(image, name[2:].upper(), **options))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        label_map, values = read(name, bytes(content), 10**6)
    except UnreadableSample:
        return
    assert values.size == label_map.height * label_map.width


def packed(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    packed_colors: NDArray[np.int64] = pixels[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return packed_colors


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("color_type", [damage.RGB, damage.RGBA, damage.GRAY_ALPHA, damage.GRAY])
def test_colors_of_a_png_equal_pillows(color_type: Any, interlaced: Any) -> None:
    shape = (23, 31, damage.CHANNELS[color_type])
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    data = damage.png(array, color_type=color_type, interlaced=interlaced)
    same(read("a.png", data, colors=True)[1], packed(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
def test_colors_of_pillows_png_files_do_not_depend_on_the_filter(mode: Any) -> None:
    # A gradient, so that Pillow's encoder takes every filter.
    y, x = np.mgrid[:40, :50]
    array = np.stack([x * 5, y * 6, x + y], -1).astype(np.uint8)
    image = Image.fromarray(array).convert(mode)
    data = saved(image, "PNG")
    same(read("a.png", data, colors=True)[1], packed(np.asarray(image.convert("RGB"))))


@pytest.mark.parametrize("form", ["BMP", "GIF", "WEBP"])
def test_colors_of_other_image_formats_equal_pillows(form: Any) -> None:
    image = Image.fromarray(COLOURS[LABELS])
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(image, form, **options)
    same(
        read(f"a.{form.lower()}", data, colors=True)[1],
        packed(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))),
    )


@pytest.mark.parametrize("channels", [3, 4])
def test_colors_of_an_array_are_read(channels: Any) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 7, channels)).astype(np.uint8)
    label_map, values = read("a.npy", damage.npy(array), colors=True)
    assert (label_map.height, label_map.width) == (30, 7)
    same(values, packed(array))


def test_files_without_colors_are_rejected_by_a_palette_rule() -> None:
    for name, data in {
        "a.npy": damage.npy(np.zeros((4, 4), np.int16)),
        "b.png": damage.png(np.zeros((4, 4)), depth=16),
        "c.tif": damage.tiff(np.zeros((4, 4), np.uint16)),
    }.items():
        with pytest.raises(UnreadableSample, match="--rule"):
            read(name, data, colors=True)


def test_an_index_beyond_the_palette_is_rejected_as_a_color() -> None:
    data = bytearray(damage.png(np.full((4, 4), 3), depth=2, color_type=damage.PALETTE))
    at = data.index(b"PLTE") - 4
    data[at : at + 4 + 4 + 12 + 4] = damage.chunk(b"PLTE", bytes(6))
    with pytest.raises(UnreadableSample, match="index 3, but its palette has 2"):
        read("a.png", bytes(data), colors=True)
