from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statsvc.errors import UnreadableSample
from statsvc_workers.formats import Mode, npy, open_label_map
from support import damage


def read(data: bytes, max_pixels: int = 1 << 40) -> Any:
    label_map = open_label_map("x.npy", io.BytesIO(data), max_pixels)
    return label_map, np.concatenate([chunk.reshape(-1) for chunk in label_map.chunks])


def refusal(data: bytes, max_pixels: int = 1 << 40) -> str:
    with pytest.raises(UnreadableSample) as caught:
        read(data, max_pixels)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<u2", ">u2", "<i4", ">i4", "<i8", ">i8", "<u8", ">u4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_integer_type_and_order_has_the_same_pixels(
    dtype: Any, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy, "CHUNK_PIXELS", 50)
    low, high = (0, 2) if dtype == "?" else (-100 if "i" in dtype else 0, 100)
    array = np.asarray(np.random.default_rng(0).integers(low, high, (13, 17)).astype(dtype), order=order)
    label_map, values = read(damage.npy(array))
    assert (label_map.mode, label_map.height, label_map.width) == (Mode.ARRAY, 13, 17)
    np.testing.assert_array_equal(np.sort(values), np.sort(array.ravel()))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 5, 6), (20, 6)), ((1, 5, 6), (5, 6)), ((5, 6, 1), (5, 6)), ((7,), (1, 7)), ((1, 1), (1, 1))],
)
def test_the_height_of_a_volume_is_depth_times_rows_and_unit_axes_are_ignored(
    shape: Any, expected: Any
) -> None:
    label_map, values = read(damage.npy(np.zeros(shape, np.int32)))
    assert (label_map.height, label_map.width) == expected
    assert values.size == np.prod(shape)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4), 0.25, np.float32), "0.25, which is not an integer"),
        (np.zeros((4, 4), np.complex64), "complex64"),
        (np.array([["a", "b"]]), "not class ids"),
        (np.array([{}, None], object), "object"),
        (np.zeros((4, 4), [("a", "i4")]), "records"),
        (np.zeros((4, 4), [("ä…", "i4")]), "records"),
        (np.zeros((4, 4), "M8[s]"), "datetime64"),
        (np.arange(60, dtype=np.uint8).reshape(5, 4, 3), "color-coded"),
        (np.arange(80, dtype=np.uint8).reshape(5, 4, 4), "color-coded"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_files_without_class_ids_are_rejected(array: Any, words: Any) -> None:
    assert words in refusal(damage.npy(array))


def test_the_error_for_a_short_file_contains_both_sizes() -> None:
    data = damage.npy(np.zeros((100, 100), np.int32))
    message = refusal(data[:-1])
    assert f"{len(data) - 1} bytes of {len(data)}" in message


@pytest.mark.parametrize("keep", [7, 9, 20, 100])
def test_a_cut_header_is_rejected(keep: Any) -> None:
    assert "damaged NPY header" in refusal(damage.npy(np.zeros((4, 4), np.uint8))[:keep])


def test_a_header_with_an_excessive_size_is_rejected_before_reading() -> None:
    data = damage.npy(np.zeros((4, 4), np.uint8)).replace(b"(4, 4), }   ", b"(99999, 9999), }"[:16][:12])
    refusal(data)
    huge = damage.npy(np.zeros((1111, 1), np.uint8)).replace(b"(1111, 1)", b"(9**99,1)")
    refusal(huge)
    assert "(max_pixels)" in refusal(damage.npy(np.zeros((20, 20), np.uint8)), max_pixels=399)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_mutated_file_is_read_or_rejected_but_never_fails_otherwise(data: Any) -> None:
    content = bytearray(damage.npy(np.arange(12, dtype=np.int32).reshape(3, 4)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, values = read(bytes(content), 10**6)
    except UnreadableSample:
        return
    assert values.dtype.kind in "biu"
