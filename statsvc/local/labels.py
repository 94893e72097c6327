"""Labels as datasets give them: tensors, arrays or images, counted exactly one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.dataset.table import MAX_IDS
from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Row = tuple[NDArray[np.int64], NDArray[np.int64]]

_BINCOUNT_LIMIT = 1 << 16
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "La", "RGBa")


def label_array(dataset: Any, index: int) -> NDArray[Any]:
    """Return the label of `dataset[index]` as an integer or bool array of any shape.

    Raises `InvalidParameter` saying what the sample is instead of (image, label) with class ids.
    """
    try:
        sample = dataset[index]
    except Exception as error:
        error.add_note(f"raised by the dataset for sample {index}")
        raise
    if not isinstance(sample, (tuple, list)) or len(sample) < 2:
        raise _refused(
            index, f"is {_kind(sample)}, not (image, label)", "wrap the dataset to return such a pair"
        )
    label = sample[1]
    if type(label).__module__.partition(".")[0] == "PIL" and label.mode in _COLOUR_MODES:
        raise _colours(index, f"an image of mode {label.mode}")
    if hasattr(label, "detach"):  # a Torch tensor, perhaps of a dtype that NumPy does not have
        if label.is_floating_point() or label.is_complex():
            raise _not_integer(index, str(label.dtype))
        label = label.detach().cpu().numpy()
    elif not isinstance(label, np.ndarray) and not hasattr(label, "__array_interface__"):
        raise _refused(
            index,
            f"has a label that is {_kind(label)}",
            "return a label map of class ids: a tensor, an array or a PIL image",
        )
    array = np.asarray(label)
    if array.dtype.kind not in "biu":
        raise _not_integer(index, str(array.dtype))
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (3, 4) and min(array.shape[:2]) > 4:
        raise _colours(index, f"an array of shape {array.shape}")
    return array


def count_label(label: NDArray[Any], index: int) -> Row:
    """Return the ids that occur, ascending, and the pixels of each: int64 [K] and int64 [K].

    Raises `InvalidParameter` for ids beyond 64 bits or more than `MAX_IDS` of them.
    """
    flat = label.reshape(-1)
    if not len(flat):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low, high = int(flat.min()), int(flat.max())
    if high >= 2**63:
        raise _refused(index, f"has the id {high}, which does not fit in 64 bits", "check how it is made")
    if low >= 0 and high < _BINCOUNT_LIMIT:
        pixels = np.bincount(flat)
        ids = np.flatnonzero(pixels).astype(np.int64)
        counts = pixels[ids].astype(np.int64)
    else:
        ids, counts = np.unique(flat.astype(np.int64), return_counts=True)
        counts = counts.astype(np.int64)
    if len(ids) > MAX_IDS:
        raise _refused(index, f"has {len(ids)} different ids", "are they instance ids? Give class ids")
    return ids, counts


def _refused(index: int, what: str, advice: str) -> InvalidParameter:
    return InvalidParameter(("dataset", f"sample {index} {what}; {advice}"))


def _not_integer(index: int, dtype: str) -> InvalidParameter:
    return _refused(
        index,
        f"has a label of dtype {dtype}",
        "class ids are integers: return label.long(), and look for a transform such as ToTensor or Normalize "
        "that has scaled the ids",
    )


def _colours(index: int, what: str) -> InvalidParameter:
    return _refused(index, f"has {what} as its label, which shows colours", "return class ids, one channel")


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"a {type(value).__name__}"
