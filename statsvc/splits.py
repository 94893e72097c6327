"""Splits: which samples of a dataset belong to train, val, test or a list of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


@dataclass(frozen=True, slots=True)
class Split:
    """Either a folder name, so that files added to the folder later belong too, or a fixed list of paths.

    With `folder`, a sample belongs to the split of the first of its folders that is named in
    `FOLDERS`: `train/val_street/a.png` is train.
    """

    folder: str | None = None
    paths: frozenset[str] = frozenset()

    def contains(self, path: str) -> bool:
        """Whether the sample with this relative path belongs to the split."""
        if self.folder is None:
            return path in self.paths
        return folder_split(path) == self.folder

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` reads."""
        return {"paths": sorted(self.paths)} if self.folder is None else {"folder": self.folder}

    @classmethod
    def from_dict(cls, name: str, value: Any) -> Split:
        """Read `{"folder": "train"}`, `{"paths": [...]}` or a plain list of paths.

        Raises `InvalidParameter` naming the split.
        """
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
