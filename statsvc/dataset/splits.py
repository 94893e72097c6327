"""Splits: which samples of a dataset belong to train, val, test or a list of one's own."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names that make a split, and the split each makes."""


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
"""Extensions of samples. In a list, an entry that ends in none of them is a name without one."""


@dataclass(frozen=True, slots=True)
class Split:
    """A folder name or a glob, so that files added later belong too, or a fixed list.

    folder  with it, a sample belongs to the split of the first of its folders that is named in
            `FOLDERS`: `train/val_street/a.png` is train
    paths   relative paths
    names   relative paths or file names without their extension: `case_1` is `a/case_1.nii.gz`
    glob    with `**`, `*`, `?` and `[…]`; without "/" it matches the file name in any folder
    """

    folder: str | None = None
    paths: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    glob: str | None = None

    def contains(self, path: str) -> bool:
        """Whether the sample with this relative path belongs to the split."""
        if self.folder is not None:
            return folder_split(path) == self.folder
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
        """Return the JSON form, which `from_dict` reads."""
        if self.folder is not None:
            return {"folder": self.folder}
        if self.glob is not None:
            return {"glob": self.glob}
        named = {"names": sorted(self.names)} if self.names else {}
        return ({"paths": sorted(self.paths)} if self.paths or not named else {}) | named

    @classmethod
    def listed(cls, name: str, entries: Sequence[str]) -> Split:
        """Return a split of paths, and of names without extension. Raises `InvalidParameter` for none."""
        paths = [entry for entry in entries if path_stem(entry) != entry]
        names = [entry for entry in entries if path_stem(entry) == entry]
        return cls.from_dict(name, {"paths": paths, "names": names})

    @classmethod
    def from_dict(cls, name: str, value: Any) -> Split:
        """Read `{"folder": "train"}`, `{"glob": "val_*"}`, `{"paths": [], "names": []}` or a list of paths.

        Raises `InvalidParameter` naming the split.
        """
        if isinstance(value, dict) and set(value) == {"glob"}:
            if not isinstance(value["glob"], str) or not value["glob"].strip("/"):
                raise InvalidParameter(("splits", f"{name}: glob is a text such as 'aachen/*'"))
            return cls(glob=value["glob"].lstrip("/"))
        if isinstance(value, dict) and "names" in value and set(value) <= {"paths", "names"}:
            names, paths = value["names"], value.get("paths", [])
            both = [*names, *paths] if isinstance(names, list) and isinstance(paths, list) else [None]
            if not all(isinstance(entry, str) for entry in both):
                raise InvalidParameter(("splits", f"{name}: paths and names are lists of texts"))
            if not names and not paths:
                raise InvalidParameter(("splits", f"{name}: the list is empty"))
            return cls(paths=frozenset(paths), names=frozenset(names))
        if isinstance(value, dict) and set(value) == {"folder"}:
            if value["folder"] not in FOLDERS.values():
                raise InvalidParameter(("splits", f"{name}: folder is one of train, val, test"))
            return cls(folder=value["folder"])
        if isinstance(value, dict) and set(value) == {"paths"}:
            value = value["paths"]
        if not isinstance(value, list) or not all(isinstance(path, str) for path in value):
            raise InvalidParameter(
                ("splits", f"{name}: give a list of relative paths, or {{'folder': 'train'}}")
            )
        if not value:
            raise InvalidParameter(("splits", f"{name}: the list is empty"))
        return cls(paths=frozenset(value))


def path_stem(path: str) -> str:
    """Return a path without the extension of a label map or picture."""
    lower = path.lower()
    return next((path[: -len(end)] for end in EXTENSIONS if lower.endswith(end)), path)


def is_glob(text: str) -> bool:
    """Whether a text has a glob's special characters."""
    return any(letter in text for letter in "*?[")


@functools.lru_cache(maxsize=64)
def _expression(glob: str) -> re.Pattern[str]:
    """Return the expression for relative paths that a glob matches; `*` stays within a folder."""
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
    """Return the split that the folders of a relative path put it in, if any."""
    for part in path.split("/")[:-1]:
        if (split := FOLDERS.get(part.lower())) is not None:
            return split
    return None


def detect(paths: Iterable[str]) -> dict[str, Split]:
    """Return the train, val and test splits that the folders of these relative paths make."""
    found = {split for path in paths if (split := folder_split(path)) is not None}
    return {name: Split(folder=name) for name in ("train", "val", "test") if name in found}


def from_dict(value: Mapping[str, Any]) -> dict[str, Split]:
    """Read the JSON form of several splits. Raises `InvalidParameter`."""
    return {name: Split.from_dict(name, item) for name, item in value.items()}
