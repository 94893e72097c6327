"""The fingerprint of a dataset: decides whether cached counts are still valid.

It covers what is visible without reading every label: the dataset's class, the code of its `__getitem__`,
its length, its attributes (file lists and the files in folders with sizes and modification times, arrays,
transforms, wrapped datasets), and the labels at a few evenly spaced indices. It misses these changes, unless
they affect one of those labels: a file whose name, size and modification time stay the same; files that are
neither in a list of paths nor below a folder that is an attribute; code that `__getitem__` calls. If in
doubt, delete the cache file.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import re
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from statsvc.dataset.splits import EXTENSIONS
from statsvc.local.labels import label_array

PROBES = 8
"""Number of labels that are read."""

_MAX_DEPTH = 6
"""Nesting of attributes that is followed."""

_MAX_ELEMENTS = 1 << 22
"""Number of elements of an array that are hashed; of larger arrays, evenly spaced ones."""

_FILE_PROBES = 8
"""Number of items of a list that are tested for being paths of files."""

_FILES = tuple(EXTENSIONS)
"""Extensions of the files in a folder that belong to the fingerprint."""

_MAX_FILES = 200_000
"""Number of files and folders after which no further folder below an attribute is read."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(dataset: Any) -> str:
    """Return a digest of a map-style dataset of (image, label) that is the same in every process.

    Raises `InvalidParameter` for a label that cannot be counted.
    """
    length = len(dataset)
    description = _Description()
    description.add(dataset, _MAX_DEPTH)
    description.text(f"length {length}")
    for index in sorted({round(k * (length - 1) / (PROBES - 1)) for k in range(PROBES)}):
        label = np.ascontiguousarray(label_array(dataset, index))
        description.text(f"label {index} {label.dtype.str} {label.shape}")
        description.digest.update(label.tobytes())
    return description.digest.hexdigest()


class _Description:
    """A digest of the contents of Python values, independent of memory addresses."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=20)
        self._active: set[int] = set()

    def text(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        self.digest.update(b"%d:" % len(data) + data)

    def add(self, value: Any, depth: int) -> None:
        self.text(f"{type(value).__module__}.{type(value).__qualname__}")
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, PurePath)):
            self.text(repr(value))
        elif depth == 0 or id(value) in self._active:
            return
        else:
            self._active.add(id(value))
            self._add_compound(value, depth - 1)
            self._active.discard(id(value))

    def _add_compound(self, value: Any, depth: int) -> None:
        if isinstance(value, (list, tuple)):
            self._add_items(value, depth)
        elif isinstance(value, Mapping):
            self.text(str(len(value)))
            for key in sorted(value, key=repr):
                self.text(repr(key))
                self.add(value[key], depth)
                self._add_folder(value[key])
        elif isinstance(value, (set, frozenset)):
            self.text(repr(sorted(map(repr, value))))
        elif hasattr(value, "detach") and hasattr(value, "numpy"):
            self.text(str(value.dtype))
            # View the bytes: NumPy does not support all of Torch's dtypes.
            import torch

            self._add_array(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
            self._add_array(value)
        elif isinstance(value, functools.partial):
            self.add([value.func, list(value.args), value.keywords], depth)
        elif isinstance(value, types.MethodType):
            self.add([value.__func__, value.__self__], depth)
        elif isinstance(value, types.FunctionType):
            self._add_function(value, depth)
        elif isinstance(value, types.CodeType):
            self.digest.update(value.co_code)
            self.add([list(value.co_names), list(value.co_consts)], depth + 1)
        elif inspect.isclass(value) or inspect.isbuiltin(value):
            self.text(f"{value.__module__}.{value.__qualname__}")
        else:
            self._add_object(value, depth)

    def _add_items(self, items: list[Any] | tuple[Any, ...], depth: int) -> None:
        self.text(str(len(items)))
        if all(type(item) is int for item in items):  # the indices of a subset can be millions
            self.text(repr(items))
            return
        files = any(_stat(item) is not None for item in items[:_FILE_PROBES])
        for item in items:
            if files and (status := _stat(item)) is not None:
                self.text(f"{item} {status.st_size} {status.st_mtime_ns}")
            else:
                self.add(item, depth)

    def _add_folder(self, folder: Any) -> None:
        """Add the sizes and modification times of the arrays and images in a folder, such as a root."""
        if not isinstance(folder, (str, PurePath)) or not str(folder) or "\0" in str(folder):
            return
        count = 0
        for parent, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(parent, name)  # noqa: PTH118 - creating a Path for each name is slow
                # Other files, such as logs and the cache itself, change while the labels do not.
                if name.lower().endswith(_FILES) and (status := _stat(path)) is not None:
                    self.text(f"{path} {status.st_size} {status.st_mtime_ns}")
            count += len(folders) + len(names)
            if count > _MAX_FILES:
                return

    def _add_array(self, array: np.ndarray[Any, Any]) -> None:
        self.text(f"{array.dtype.str} {array.shape}")
        step = max(1, array.size // _MAX_ELEMENTS)
        self.digest.update(np.ascontiguousarray(array.reshape(-1)[::step]).tobytes())

    def _add_function(self, function: types.FunctionType, depth: int) -> None:
        self.text(f"{function.__module__}.{function.__qualname__}")
        self.add(function.__code__, depth)
        self.add([function.__defaults__, function.__kwdefaults__], depth)
        for cell in function.__closure__ or ():
            self.add(cell.cell_contents, depth)

    def _add_object(self, value: Any, depth: int) -> None:
        # Only attributes of datasets and transforms: those of a lock or a logger change over time.
        relevant = hasattr(value, "__getitem__") or callable(value)
        attributes = getattr(value, "__dict__", None)
        if not relevant or attributes is None:
            self.text(_ADDRESS.sub("", repr(value)))
            return
        for name in ("__getitem__", "__call__", "forward"):
            method = getattr(type(value), name, None)
            if isinstance(method, types.FunctionType):
                self.add(method.__code__, depth)
        self.add(attributes, depth)


def _stat(value: Any) -> os.stat_result | None:
    if not isinstance(value, (str, PurePath)):
        return None
    try:
        return os.stat(value)  # noqa: PTH116 - creating a Path for each name is slow
    except (OSError, ValueError):
        return None
