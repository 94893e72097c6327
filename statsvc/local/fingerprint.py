"""A dataset's fingerprint: whether counts kept from an earlier run still hold.

It covers what can be seen without reading every label: the dataset's class and the code of its
`__getitem__`, its length, its attributes (lists of files with size and time of change, arrays,
transforms, wrapped datasets), and the labels at a few evenly spaced indices. It does not see a label
that changes under the same file name, size and time, nor one behind a list of names that are not
paths from the working folder, unless it is one of the probes; nor code that `__getitem__` calls. Where
in doubt, delete the cache file.
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

from statsvc.local.labels import label_array

PROBES = 8
"""How many labels are read."""

_DEPTH = 6
_WHOLE = 1 << 22
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_TRIED = 8


def fingerprint(dataset: Any) -> str:
    """Return a digest of a map-style dataset of (image, label), the same in every process.

    Raises what `label_array` raises for a label that cannot be counted.
    """
    length = len(dataset)
    found = _Description()
    found.add(dataset, _DEPTH)
    found.text(f"length {length}")
    for index in sorted({round(k * (length - 1) / (PROBES - 1)) for k in range(PROBES)}):
        label = np.ascontiguousarray(label_array(dataset, index))
        found.text(f"label {index} {label.dtype.str} {label.shape}")
        found.digest.update(label.tobytes())
    return found.digest.hexdigest()


class _Description:
    """A digest of Python values by their content, never by their address."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=20)
        self._open: set[int] = set()

    def text(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        self.digest.update(b"%d:" % len(data) + data)

    def add(self, value: Any, depth: int) -> None:
        self.text(f"{type(value).__module__}.{type(value).__qualname__}")
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, PurePath)):
            self.text(repr(value))
        elif depth == 0 or id(value) in self._open:
            return
        else:
            self._open.add(id(value))
            self._add_compound(value, depth - 1)
            self._open.discard(id(value))

    def _add_compound(self, value: Any, depth: int) -> None:
        if isinstance(value, (list, tuple)):
            self._add_items(value, depth)
        elif isinstance(value, Mapping):
            self.text(str(len(value)))
            for key in sorted(value, key=repr):
                self.text(repr(key))
                self.add(value[key], depth)
        elif isinstance(value, (set, frozenset)):
            self.text(repr(sorted(map(repr, value))))
        elif hasattr(value, "detach") and hasattr(value, "numpy"):
            self.text(str(value.dtype))
            # Bytes, because NumPy lacks some of Torch's dtypes.
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
        if all(type(item) is int for item in items):  # a subset's indices: a million of them, maybe
            self.text(repr(items))
            return
        files = any(_stat(item) is not None for item in items[:_TRIED])
        for item in items:
            if files and (status := _stat(item)) is not None:
                self.text(f"{item} {status.st_size} {status.st_mtime_ns}")
            else:
                self.add(item, depth)

    def _add_array(self, array: np.ndarray[Any, Any]) -> None:
        self.text(f"{array.dtype.str} {array.shape}")
        # Of a large array, evenly spaced values: the labels that matter are among the probes.
        step = max(1, array.size // _WHOLE)
        self.digest.update(np.ascontiguousarray(array.reshape(-1)[::step]).tobytes())

    def _add_function(self, function: types.FunctionType, depth: int) -> None:
        self.text(f"{function.__module__}.{function.__qualname__}")
        self.add(function.__code__, depth)
        self.add([function.__defaults__, function.__kwdefaults__], depth)
        for cell in function.__closure__ or ():
            self.add(cell.cell_contents, depth)

    def _add_object(self, value: Any, depth: int) -> None:
        # Attributes of datasets and transforms only: a lock or a logger has some that change by themselves.
        described = hasattr(value, "__getitem__") or callable(value)
        attributes = getattr(value, "__dict__", None)
        if not described or attributes is None:
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
        return os.stat(value)  # noqa: PTH116 - a text is no Path yet, and there are many
    except (OSError, ValueError):
        return None
