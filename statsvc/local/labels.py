"""The labels of a dataset (tensors, arrays or PIL images), and their histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.table import MAX_IDS
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Row = tuple[NDArray[np.int64], NDArray[np.int64]]

_BINCOUNT_LIMIT = 1 << 16
"""Ids below this are counted with `np.bincount`, which allocates one counter per id."""

_COLOR_MODES = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "La", "RGBa")


def label_array(dataset: Any, index: int) -> NDArray[Any]:
    """Return the label of `dataset[index]` as an integer or bool array of any shape.

    Raises `InvalidParameter` if the sample is not (image, label), or the label has no class ids.
    """
    try:
        sample = dataset[index]
    except Exception as error:
        error.add_note(f"raised by the dataset for sample {index}")
        raise
    if not isinstance(sample, (tuple, list)) or len(sample) < 2:
        raise _label_error(
            index, f"is {_describe(sample)}, not (image, label)", "Wrap the dataset to return such a pair."
        )
    label = sample[1]
    if type(label).__module__.partition(".")[0] == "PIL" and label.mode in _COLOR_MODES:
        raise _color_error(index, f"an image of mode {label.mode}")
    if hasattr(label, "detach"):  # a Torch tensor; NumPy does not support all of its dtypes
        if label.is_floating_point() or label.is_complex():
            raise _dtype_error(index, str(label.dtype))
        label = label.detach().cpu().numpy()
    elif not isinstance(label, np.ndarray) and not hasattr(label, "__array_interface__"):
        raise _label_error(
            index,
            f"has a label that is {_describe(label)}",
            "Return a label map of class ids: a tensor, an array or a PIL image.",
        )
    array = np.asarray(label)
    if array.dtype.kind not in "biu":
        raise _dtype_error(index, str(array.dtype))
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (3, 4) and min(array.shape[:2]) > 4:
        raise _color_error(index, f"an array of shape {array.shape}")
    return array


def count_label(label: NDArray[Any], index: int) -> Row:
    """Return the K ids that occur, ascending, and the pixels of each: int64 [K] and int64 [K].

    index  of the label in its dataset, for errors

    Raises `InvalidParameter` for ids that do not fit in int64, or more than `MAX_IDS` different ids.
    """
    flat = label.reshape(-1)
    if not len(flat):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low, high = int(flat.min()), int(flat.max())
    if high >= 2**63:
        raise _label_error(index, f"has the id {high}, which does not fit in int64", "Return class ids.")
    if low >= 0 and high < _BINCOUNT_LIMIT:
        pixels = np.bincount(flat)
        ids = np.flatnonzero(pixels).astype(np.int64)
        counts = pixels[ids].astype(np.int64)
    else:
        ids, counts = np.unique(flat.astype(np.int64), return_counts=True)
        counts = counts.astype(np.int64)
    if len(ids) > MAX_IDS:
        raise _label_error(
            index, f"has {len(ids)} different ids", "Return class ids instead of instance ids."
        )
    return ids, counts


def _label_error(index: int, problem: str, advice: str) -> InvalidParameter:
    return InvalidParameter(("dataset", f"Sample {index} {problem}. {advice}"))


def _dtype_error(index: int, dtype: str) -> InvalidParameter:
    return _label_error(
        index,
        f"has a label of dtype {dtype}, but class ids are integers",
        "Return label.long(), and remove transforms that scale the ids, such as ToTensor or Normalize.",
    )


def _color_error(index: int, label: str) -> InvalidParameter:
    return _label_error(
        index, f"has {label} as its label, which contains colors", "Return class ids in one channel."
    )


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"a {type(value).__name__}"
