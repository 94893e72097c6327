from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import Mode, magic, open_label_map, png, png_structure
from support import damage

LARGE = 1 << 40


def read(data: bytes, name: str = "x.png", max_pixels: int = LARGE) -> tuple[Mode, np.ndarray]:
    label_map = open_label_map(name, io.BytesIO(data), max_pixels)
    chunks = [chunk.reshape(-1) for chunk in label_map.chunks]
    return label_map.mode, np.concatenate(chunks).reshape(label_map.height, label_map.width)


def refusal(data: bytes, **options: Any) -> str:
    with pytest.raises(UnreadableSample) as caught:
        read(data, **options)
    return str(caught.value)


KINDS = [(damage.GRAY, depth) for depth in (1, 2, 4, 8, 16)] + [(damage.PALETTE, d) for d in (1, 2, 4, 8)]


@pytest.mark.parametrize(("color_type", "depth"), KINDS)
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (17, 23)])
def test_every_depth_gives_the_raw_values_written(
    color_type: Any, depth: Any, interlaced: Any, shape: Any
) -> None:
    array = np.random.default_rng(depth).integers(0, 1 << depth, shape)
    mode, values = read(damage.png(array, depth, color_type, interlaced))
    assert mode == (Mode.PALETTE if color_type == damage.PALETTE else Mode.GRAY)
    np.testing.assert_array_equal(values, array)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_files_that_pillow_wrote_read_as_pillow_reads_them(mode: Any) -> None:
    rng = np.random.default_rng(1)
    array = {
        "1": rng.integers(0, 2, (30, 41)).astype(bool),
        "I;16": rng.integers(0, 65536, (30, 41)).astype(np.uint16),
    }.get(mode, rng.integers(0, 256, (30, 41)).astype(np.uint8))
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
        assert image.mode == "P"
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    np.testing.assert_array_equal(read(file.getvalue())[1], array)


@pytest.mark.parametrize("at_once", [1, 1 << 26])
@pytest.mark.parametrize(("color_type", "depth"), KINDS)
@pytest.mark.parametrize("kind", [None, 0, 2, 4])
def test_an_image_read_band_by_band_equals_what_pillow_reads(
    monkeypatch: pytest.MonkeyPatch, color_type: Any, depth: Any, kind: Any, at_once: Any
) -> None:
    monkeypatch.setattr(png, "BAND", 100)
    monkeypatch.setattr(png, "AT_ONCE", at_once)
    monkeypatch.setattr(png, "BLOCK", 50)
    monkeypatch.setattr(png_structure, "BLOCK", 50)
    rng = np.random.default_rng(depth)
    array = rng.integers(0, 1 << depth, (37, 30)).repeat(2, axis=0)  # rows that repeat the one above

    def filtered(raw: bytes) -> bytes:
        rows = np.frombuffer(raw, np.uint8).reshape(74, -1).copy()
        rows[:, 0] = rng.integers(0, 5, 74) if kind is None else kind
        return zlib.compress(rows.tobytes())

    data = damage.png(array, depth, color_type, stream=filtered)
    label_map = open_label_map("x.png", io.BytesIO(data), LARGE)
    chunks = list(label_map.chunks)
    assert len(chunks) > 1 or depth < 8
    pillow = np.asarray(Image.open(io.BytesIO(data))).astype(np.int64)
    if color_type == damage.GRAY:
        pillow //= {2: 85, 4: 17}.get(depth, 1)  # Pillow scales these to 0…255
    np.testing.assert_array_equal(np.concatenate(chunks), pillow)
    if label_map.histogram is not None:
        ids, counts = np.unique(pillow, return_counts=True)
        histogram = open_label_map("x.png", io.BytesIO(data), LARGE).histogram
        assert histogram is not None
        assert [part.tolist() for part in histogram()] == [ids.tolist(), counts.tolist()]


@pytest.mark.parametrize("depth", [8, 16])
def test_an_image_larger_than_one_decompression_step_needs_little_memory(depth: Any) -> None:
    import tracemalloc

    side, row = 12_000, 12_000 * depth // 8
    deflater = zlib.compressobj()
    stream = b"".join(deflater.compress(bytes(1 + row)) for _ in range(side)) + deflater.flush()
    data = damage.png(np.zeros((1, 1), int), depth, stream=lambda _: stream)
    header = side.to_bytes(4, "big") * 2 + data[24:29]
    data = data[:8] + damage.chunk(b"IHDR", header) + data[33:]
    tracemalloc.start()
    label_map = open_label_map("x.png", io.BytesIO(data), LARGE)
    pixels = sum(chunk.size for chunk in label_map.chunks if not chunk.any())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels == side * side
    assert peak < 40 << 20, "the image data are 137 or 275 MiB"


def test_text_profiles_and_bytes_after_the_end_do_not_matter() -> None:
    array = np.arange(64).reshape(8, 8)
    extra = damage.chunk(b"iCCP", b"nonsense") + damage.chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))
    data = damage.png(array, extra=extra, idat=7) + b"appended by some tool"
    np.testing.assert_array_equal(read(data)[1], array)


def test_a_file_over_pillows_own_limit_neither_warns_nor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read(damage.label_png())[1].shape == (24, 32)


@pytest.mark.parametrize("keep", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_rejected(keep: Any) -> None:
    message = refusal(damage.truncated(damage.label_png(shape=(200, 200)), keep))
    assert "truncated" in message or "is not a valid PNG" in message
    assert "copy" in message


def test_every_single_flipped_bit_is_rejected() -> None:
    data = damage.label_png(shape=(6, 6))
    for bit in range(8 * len(data)):
        refusal(damage.flipped(data, bit))


def damaged_streams() -> Any:
    half = lambda raw: zlib.compress(raw[: len(raw) // 2])  # noqa: E731
    return {
        "rows missing": (half, "truncated inside its compressed data"),
        "rows too many": (lambda raw: zlib.compress(raw + bytes(500)), "more pixels"),
        "no Adler": (lambda raw: zlib.compress(raw)[:-4], "truncated inside its compressed data"),
        "wrong Adler": (lambda raw: zlib.compress(raw)[:-4] + b"\1\2\3\4", "compressed data is invalid"),
        "no zlib": (lambda raw: b"\xff" * 30, "compressed data is invalid"),
        "no filter": (
            lambda raw: zlib.compress(b"\x09" + raw[1:]),
            "row 0 of its pixels has an invalid filter type",
        ),
        "bomb": (lambda raw: zlib.compress(bytes(1 << 27)), "more pixels"),
    }


@pytest.mark.parametrize("case", damaged_streams())
def test_a_damaged_stream_with_correct_checksums_is_rejected(case: Any) -> None:
    stream, words = damaged_streams()[case]
    message = refusal(damage.png(np.arange(4096).reshape(64, 64) % 7, stream=stream))
    assert words in message
    assert "copy" in message


@pytest.mark.parametrize(
    ("color_type", "depth", "words"),
    [
        (damage.RGB, 8, "RGB, 8 bits"),
        (damage.RGB, 16, "RGB, 16 bits"),
        (damage.RGBA, 8, "RGBA"),
        (damage.GRAY_ALPHA, 8, "gray with alpha"),
    ],
)
def test_color_images_are_rejected_as_color_coded(color_type: Any, depth: Any, words: Any) -> None:
    array = np.arange(16 * damage.CHANNELS[color_type], dtype=np.uint8).reshape(4, 4, -1)
    message = refusal(damage.png(array, depth, color_type))
    assert "color-coded" in message
    assert words in message
    assert "--pattern" in message


def test_the_limit_is_checked_before_anything_is_decoded() -> None:
    header = damage.chunk(b"IHDR", (60000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0]))
    message = refusal(damage.SIGNATURE + header + b"nothing", max_pixels=10**9)
    assert "60000 x 60000 = 3600000000 pixels" in message
    assert "limit of 1000000000 (max_pixels)" in message


def test_an_image_of_exactly_the_limit_is_read() -> None:
    assert read(damage.label_png(shape=(10, 10)), max_pixels=100)[1].size == 100
    assert "max_pixels" in refusal(damage.label_png(shape=(10, 10)), max_pixels=99)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty (0 bytes)"),
        (bytes(100), "zero bytes only"),
        (b"hello, this is text\n", "text file"),
        ("Grüße aus München".encode(), "text file"),
        (b"\xff\xd8\xff\xe0 JFIF", "JPEG is lossy"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"II*\0\x08\0\0\0", "rename it to .tif"),
        (damage.npy(np.zeros(3, np.uint8)), "rename it to .npy"),
        (b"\x01\x02\xfe\xff rubbish", "no known image format"),
    ],
)
def test_a_foreign_file_named_png_is_identified_by_its_content(data: Any, words: Any) -> None:
    message = refusal(data)
    assert message.startswith("is not a valid PNG: it ")
    assert words in message


def test_an_unknown_extension_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(
        UnreadableSample, match=r"'\.jpg', which is not supported; JPEG is lossy.*\.npz.*\.png"
    ):
        open_label_map("a.jpg", io.BytesIO(b"\xff\xd8\xff"), LARGE)


def test_an_image_without_pixels_is_rejected() -> None:
    header = damage.chunk(b"IHDR", bytes(8) + bytes([8, 0, 0, 0, 0]))
    assert "no pixels" in refusal(damage.SIGNATURE + header)


def test_a_file_system_error_is_not_reported_as_a_bad_file() -> None:
    class Failing(io.BytesIO):
        def read(self, *_args: Any) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        open_label_map("a.png", Failing(damage.label_png()), LARGE)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_files_are_rejected_or_equal_pillows(data: Any) -> None:
    color_type, depth = data.draw(st.sampled_from(KINDS))
    array = np.random.default_rng(0).integers(0, 1 << depth, (9, 11))
    content = bytearray(damage.png(array, depth, color_type, data.draw(st.booleans()), idat=20))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["set", "cut", "insert", "swap"]))
        if action == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del content[at : at + data.draw(st.integers(1, 30))]
        elif action == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=12))
        else:
            content[at:] = content[at:][::-1]
        if not content:
            break
    try:
        _, values = read(bytes(content), max_pixels=10**6)
    except UnreadableSample:
        return
    with Image.open(io.BytesIO(bytes(content))) as image:
        pillow = np.asarray(image).astype(np.int64)
    scale = {(damage.GRAY, 2): 85, (damage.GRAY, 4): 17}.get((color_type, depth), 1)
    np.testing.assert_array_equal(values.astype(np.int64) * scale, pillow)


def test_describing_the_content_of_a_file_never_fails() -> None:
    rng = np.random.default_rng(0)
    for length in range(65):
        assert magic.describe_content(rng.bytes(length))
