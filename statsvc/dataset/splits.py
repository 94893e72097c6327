"""Splits: named subsets of a dataset, defined by folder, glob or list. A sample can be in several splits."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from statsvc.common.globs import FOLDERS as ANY_FOLDERS
from statsvc.common.globs import Automaton, Token, check_length, is_fast
from statsvc.common.plurals import plural
from statsvc.errors import Inapplicable, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

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

NAMES = ("train", "val", "test")
"""Splits that are detected."""

SHORT_FOLDERS = {"tr": "train", "va": "val", "ts": "test"}
"""Endings of folder names that define a split, as in `labelsTr`, and the name of that split."""

SHARD = re.compile(rf"({'|'.join(FOLDERS)})([-_.])\d+([-_.]of[-_.]\d+)?\.(parquet|tar)$", re.IGNORECASE)
"""A shard of a split: `train-00000-of-00004.parquet`."""

_LABELS = "annot|annots|annotation|annotations|label|labels|mask|masks|gt|seg"
LABELS_OF_SPLIT = (
    rf"({'|'.join(FOLDERS)})[-_ ]?(?:{_LABELS})"
    rf"|(?:{_LABELS}|images)[-_ ]?({'|'.join([*FOLDERS, *SHORT_FOLDERS])})"
    rf"|(?:[A-Za-z]+_)?({'|'.join(FOLDERS)})20\d\d"
)
"""A folder of the labels of a split: `trainannot`, `val_masks`, `labelsTr`, `panoptic_val2017`."""

CONTAINER = re.compile(r"(.*?\.(?:parquet|tar))/", re.IGNORECASE)
"""The path of a container in the path of a sample in it."""

_END_OF_CONTAINER = re.compile(r"\.(?:parquet|tar)/", re.IGNORECASE)
"""Occurs wherever `CONTAINER` matches; much faster to search for."""

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
    ".mat",
    ".jp2",
    ".j2k",
    ".nrrd",
    ".mha",
    ".dcm",
    ".img",
    ".asc",
    ".label",
    "_lidarseg.bin",
    ".pgm",
    ".pbm",
    ".tga",
    ".zarr",
    ".jpg",
    ".jpeg",
    ".tar",
    ".parquet",
]
"""Extensions of samples, longest first if one ends in another. A list entry without any of them is a name."""

SORTED_AT_ONCE = 10_000
"""Texts that are sorted in one step, which takes a few milliseconds."""

_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
"""Wildcard of a glob → regular expression."""


class Split(Struct, frozen=True):
    """A subset of the samples: by folder or glob, which include files added later, or a fixed list.

    folder  name of a folder split; the outermost folder listed in `FOLDERS` decides:
            `train/val/a.png` is in train
    paths   paths of samples, relative to the source
    names   paths or file names without extension: `case_1` matches `a/case_1.nii.gz`
    group   function from paths to groups, and a group: the samples in this group. It follows from a group
            rule, and is not part of a configuration
    within  a group's samples are only those in this split; None for all
    glob    pattern with `**`, `*`, `?` and `[…]`; without "/" it matches the file name in any folder
    """

    folder: str | None = None
    paths: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    glob: str | None = None
    group: tuple[Callable[[Sequence[str]], Sequence[str | None]], str] | None = None
    within: Split | None = None

    def contains(self, path: str) -> bool:
        """Return whether the sample with this relative path is in the split."""
        return self.matcher()(path)

    def select(self, paths: Sequence[str]) -> NDArray[np.bool_]:
        """Return which of the samples with these relative paths are in the split, bool [n]."""
        import numpy as np  # not for reading a configuration, of which splits are a part

        return np.fromiter(map(self.matcher(), paths), bool, len(paths))

    def matcher(self) -> Callable[[str], bool]:
        """Return `contains` as a function that is fast for many paths."""
        if self.folder is not None:
            return lambda path: folder_split(path) == self.folder
        if self.group is not None:
            values_of, value = self.group
            is_within = (lambda _path: True) if self.within is None else self.within.matcher()
            return lambda path: is_within(path) and values_of([path])[0] == value
        if self.glob is not None:
            return _sample_matcher(self.glob)
        return self._is_listed

    def _is_listed(self, path: str) -> bool:
        if path in self.paths:
            return True
        if not self.names:
            return False
        stem = path_stem(path)
        return stem in self.names or stem.rpartition("/")[2] in self.names

    def __str__(self) -> str:
        if self.folder is not None:
            return f"folder {self.folder}"
        if self.glob is not None:
            return f"glob {self.glob!r}"
        entries = self.paths | self.names
        return f"a list of {plural(len(entries), 'sample')} (the first is {min(entries)!r})"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` parses."""
        if self.folder is not None:
            return {"folder": self.folder}
        if self.glob is not None:
            return {"glob": self.glob}
        named = {"names": _sorted(self.names)} if self.names else {}
        return ({"paths": _sorted(self.paths)} if self.paths or not named else {}) | named

    @classmethod
    def listed(cls, name: str, entries: Sequence[str]) -> Split:
        """Return the split that lists these paths and names without extension.

        Raises `InvalidParameter` for an empty list.
        """
        paths = [entry for entry in entries if path_stem(entry) != entry]
        names = [entry for entry in entries if path_stem(entry) == entry]
        return cls.from_dict(name, {"paths": paths, "names": names})

    @classmethod
    def from_dict(cls, name: str, value: Any, *, stored: bool = False) -> Split:
        """Parse `{"folder": "train"}`, `{"glob": "val_*"}`, `{"paths": [], "names": []}` or a list of paths.

        stored  whether it is part of a configuration, which an earlier release may have accepted

        Raises `InvalidParameter` with the name of the split.
        """
        keys = set(value) if isinstance(value, dict) else set()
        if keys == {"glob"}:
            if not isinstance(value["glob"], str) or not value["glob"].strip("/"):
                raise _invalid(name, f"glob must be a pattern such as 'aachen/*', got {value['glob']!r}")
            if not stored:
                check_length("splits", value["glob"])
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


def _sorted(texts: frozenset[str]) -> list[str]:
    """Sort in steps: the server's other threads wait while a list is sorted."""
    import heapq

    unsorted = list(texts)
    steps = [sorted(unsorted[k : k + SORTED_AT_ONCE]) for k in range(0, len(unsorted), SORTED_AT_ONCE)]
    return list(heapq.merge(*steps))


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


def _sample_matcher(glob: str) -> Callable[[str], bool]:
    """Return whether the path of a sample, or of the container that it is in, matches a glob."""
    matches, whole_path = _matcher(glob), "/" in glob

    def is_match(path: str) -> bool:
        if matches(path if whole_path else path.rpartition("/")[2]):
            return True
        # A container counts as the folder of its samples and as a file: `train-*` matches its samples.
        if _END_OF_CONTAINER.search(path) is None or (container := CONTAINER.match(path)) is None:
            return False
        return bool(matches(container[1] if whole_path else container[1].rpartition("/")[2]))

    return is_match


@functools.lru_cache(maxsize=64)
def _matcher(glob: str) -> Callable[[str], object]:
    """Return a function whose result is true for relative paths that match a glob.

    `*` and `?` do not match "/".
    """
    parts = [part for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob) if part]
    expression = _expression(glob, parts)
    if is_fast(glob) or expression.pattern == re.escape(glob):
        return expression.fullmatch
    tokens: list[Token] = []
    for part in parts:
        if part == "**/":
            tokens += ANY_FOLDERS
        elif part in _WILDCARDS:
            tokens.append(Token("one" if part == "?" else "many", _WILDCARDS[part].rstrip("*")))
        elif _is_class(part):
            tokens.append(Token("one", _class(part)))
        else:
            tokens += [Token("one", re.escape(letter)) for letter in part]
    return Automaton(tokens).matches


def _expression(glob: str, parts: Sequence[str]) -> re.Pattern[str]:
    expression = "".join(
        _WILDCARDS.get(part) or (_class(part) if _is_class(part) else re.escape(part)) for part in parts
    )
    try:
        return re.compile(expression)
    except re.error:
        return re.compile(re.escape(glob))


def _is_class(part: str) -> bool:
    return re.fullmatch(r"\[[^\]]+\]", part) is not None


def _class(part: str) -> str:
    return part.replace("[!", "[^", 1)


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
    """Return the splits (train, val, test) that the folders of these relative paths define.

    A folder is named after a split (`train`), or after a split and labels (`trainannot`, `labelsTr`), or is
    a shard of a split (`train-00000-of-00004.parquet`). Folders of the first form take precedence.
    """
    folders = {path.rpartition("/")[0] for path in paths}
    names = {split for folder in folders if (split := folder_split(f"{folder}/")) is not None}
    if names:
        return {name: Split(folder=name) for name in NAMES if name in names}
    parts = {part for folder in folders for part in folder.split("/") if part}
    globs = {glob: split for part in sorted(parts) for split, glob in _named_after_split(part)}
    if len(globs) > len(set(globs.values())):
        return {}  # two folders of one split, such as train_masks and train_labels
    glob_of = {split: glob for glob, split in globs.items()}
    return {name: Split(glob=glob_of[name]) for name in NAMES if name in glob_of}


def _named_after_split(part: str) -> Iterator[tuple[str, str]]:
    """Yield the split and the glob of a folder or shard whose name contains that of a split."""
    if match := SHARD.match(part):
        word, separator = match.group(1), match.group(2)
        yield FOLDERS[word.lower()], f"**/{word}{separator}*/**"
    elif match := re.fullmatch(LABELS_OF_SPLIT, part, re.IGNORECASE):
        word = next(group for group in match.groups() if group).lower()
        yield FOLDERS.get(word) or SHORT_FOLDERS[word], f"**/{part}/**"


def check_not_empty(splits: Mapping[str, Split], paths: Sequence[str] | np.ndarray[Any, Any]) -> None:
    """Raise `Inapplicable` for a split that matches none of the samples of a dataset, at least one."""
    for name, split in splits.items():
        if not any(map(split.matcher(), paths)):
            example = f"for example {paths[0]}"
            raise Inapplicable(
                (
                    "splits",
                    f"{name}: {split} matches none of the {plural(len(paths), 'sample')}, {example}. Correct "
                    "the split; paths and globs with '/' are relative to the source",
                )
            )


def from_dict(value: Mapping[str, Any], *, stored: bool = False) -> dict[str, Split]:
    """Parse the JSON form of several splits, name → split. Raises `InvalidParameter`."""
    return {name: Split.from_dict(name, item, stored=stored) for name, item in value.items()}
