"""Splits: named subsets of a dataset, defined by folder, glob or list. A sample can be in several splits."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names that define a split, and the name of that split."""

EXTENSIONS = [
    ".nii.gz",
    ".ome.zarr",
    ".png",
    ".npy",
    ".npz",
    ".tif",
    ".tiff",
    ".nii",
    ".bmp",
    ".gif",
    ".webp",
    ".h5",
    ".hdf5",
    ".zarr",
    ".jpg",
    ".jpeg",
    ".tar",
    ".parquet",
]
"""Extensions of samples, longest first if one ends in another. A list entry without any of them is a name."""


@dataclass(frozen=True, slots=True)
class Split:
    """A subset of the samples: by folder or glob, which include files added later, or a fixed list.

    folder  name of a folder split; the outermost folder listed in `FOLDERS` decides:
            `train/val/a.png` is in train
    paths   paths of samples, relative to the source
    names   paths or file names without extension: `case_1` matches `a/case_1.nii.gz`
    group   function from paths to groups, and a group: the samples in this group. It follows from a group
            rule, and is not part of a configuration
    glob    pattern with `**`, `*`, `?` and `[…]`; without "/" it matches the file name in any folder
    """

    folder: str | None = None
    paths: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    glob: str | None = None
    group: tuple[Callable[[Sequence[str]], Sequence[str | None]], str] | None = None

    def contains(self, path: str) -> bool:
        """Return whether the sample with this relative path is in the split."""
        if self.folder is not None:
            return folder_split(path) == self.folder
        if self.group is not None:
            values_of, value = self.group
            return values_of([path])[0] == value
        if self.glob is not None:
            text = path if "/" in self.glob else path.rpartition("/")[2]
            return _expression(self.glob).fullmatch(text) is not None
        if path in self.paths:
            return True
        if not self.names:
            return False
        stem = path_stem(path)
        return stem in self.names or stem.rpartition("/")[2] in self.names

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` parses."""
        if self.folder is not None:
            return {"folder": self.folder}
        if self.glob is not None:
            return {"glob": self.glob}
        named = {"names": sorted(self.names)} if self.names else {}
        return ({"paths": sorted(self.paths)} if self.paths or not named else {}) | named

    @classmethod
    def listed(cls, name: str, entries: Sequence[str]) -> Split:
        """Return the split that lists these paths and names without extension.

        Raises `InvalidParameter` for an empty list.
        """
        paths = [entry for entry in entries if path_stem(entry) != entry]
        names = [entry for entry in entries if path_stem(entry) == entry]
        return cls.from_dict(name, {"paths": paths, "names": names})

    @classmethod
    def from_dict(cls, name: str, value: Any) -> Split:
        """Parse `{"folder": "train"}`, `{"glob": "val_*"}`, `{"paths": [], "names": []}` or a list of paths.

        Raises `InvalidParameter` with the name of the split.
        """
        keys = set(value) if isinstance(value, dict) else set()
        if keys == {"glob"}:
            if not isinstance(value["glob"], str) or not value["glob"].strip("/"):
                raise _invalid(name, f"glob must be a pattern such as 'aachen/*', got {value['glob']!r}")
            return cls(glob=value["glob"].lstrip("/"))
        if keys == {"folder"}:
            if value["folder"] not in FOLDERS.values():
                raise _invalid(name, f"folder must be train, val or test, got {value['folder']!r}")
            return cls(folder=value["folder"])
        if "names" in keys and keys <= {"paths", "names"}:
            names, paths = value["names"], value.get("paths", [])
            if not _is_string_list(names) or not _is_string_list(paths):
                raise _invalid(name, "paths and names must be lists of strings")
        else:
            names, paths = [], value["paths"] if keys == {"paths"} else value
            if not _is_string_list(paths):
                raise _invalid(
                    name, "expected a list of relative paths, or an object such as {'folder': 'train'}"
                )
        if not names and not paths:
            raise _invalid(name, "the list is empty; add paths, or remove the split")
        return cls(paths=frozenset(paths), names=frozenset(names))


def _invalid(name: str, message: str) -> InvalidParameter:
    return InvalidParameter(("splits", f"{name}: {message}"))


def _is_string_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def path_stem(path: str) -> str:
    """Return a path without the extension of a label map or image; other extensions are kept."""
    lower = path.lower()
    return next((path[: -len(end)] for end in EXTENSIONS if lower.endswith(end)), path)


def is_glob(text: str) -> bool:
    """Return whether a text contains special characters of a glob."""
    return any(letter in text for letter in "*?[")


@functools.lru_cache(maxsize=64)
def _expression(glob: str) -> re.Pattern[str]:
    """Return the regular expression of a glob over relative paths; `*` and `?` do not match "/"."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(
        special.get(part)
        or (part.replace("[!", "[^", 1) if re.fullmatch(r"\[[^\]]+\]", part) else re.escape(part))
        for part in parts
    )
    try:
        return re.compile(text)
    except re.error:
        return re.compile(re.escape(glob))


def folder_split(path: str) -> str | None:
    """Return the folder split that a relative path is in, or None."""
    for part in path.split("/")[:-1]:
        if (split := FOLDERS.get(part.lower())) is not None:
            return split
    return None


def advised_split(splits: Mapping[str, Split]) -> str | None:
    """Return "train" where there is also a split to evaluate on, whose counts must not shape the weights."""
    return "train" if "train" in splits and ("val" in splits or "test" in splits) else None


def detect(paths: Iterable[str]) -> dict[str, Split]:
    """Return the folder splits (train, val, test) that contain at least one of these relative paths."""
    names = {split for path in paths if (split := folder_split(path)) is not None}
    return {name: Split(folder=name) for name in ("train", "val", "test") if name in names}


def from_dict(value: Mapping[str, Any]) -> dict[str, Split]:
    """Parse the JSON form of several splits, name → split. Raises `InvalidParameter`."""
    return {name: Split.from_dict(name, item) for name, item in value.items()}
