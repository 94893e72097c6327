"""Splits that a dataset defines in files: the lists of Pascal VOC, and the folds of nnU-Net."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from statsvc.dataset.split_files import folds_of
from statsvc.dataset.splits import Split, check_not_empty
from statsvc.errors import InvalidParameter
from statsvc_workers.samples.open_sample import open_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIST = re.compile(r"(?:.*/)?ImageSets/Segmentation/([^/]+)\.txt")
"""A list of Pascal VOC: the name of the split, and one image name per line."""

FOLDS = re.compile(r"(?:.*/)?splits_final\.json")
"""The folds of nnU-Net, documentation/manual_data_splits.md of MIC-DKFZ/nnUNet."""

MAX_BYTES = 1 << 24
"""Larger files are not read: parsed JSON takes up to twenty times as much memory."""


class ListedSplits(Struct, frozen=True):
    """Splits that files of a source define.

    splits      name → split; a split that contains none of the label maps is left out
    files       paths of the files that were read
    unreadable  (path, reason) of each file that could not be read
    """

    splits: dict[str, Split]
    files: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]


def listed_splits(root: str, paths: Iterable[str], samples: Sequence[str]) -> ListedSplits:
    """Return the splits that the files of a source define.

    paths    paths of all files of the source
    samples  paths of the label maps
    """
    files = sorted(path for path in paths if LIST.fullmatch(path) or FOLDS.fullmatch(path))
    entries: dict[str, list[str]] = {}
    folds: dict[str, Split] = {}
    read, unreadable = [], []
    for path in files:
        try:
            with open_bytes(root, path) as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                unreadable.append((path, f"it has more than {MAX_BYTES >> 20} MB"))
                continue
            text = content.decode("utf-8")
            if match := LIST.fullmatch(path):
                names = [line.split()[0] for line in text.splitlines() if line.strip()]
                entries.setdefault(match.group(1), []).extend(names)
            else:
                folds |= folds_of(json.loads(text), path)
            read.append(path)
        except (OSError, ValueError, RecursionError, InvalidParameter) as error:
            unreadable.append((path, _reason(error)))
    splits = folds | {name: Split.listed(name, names) for name, names in entries.items() if names}
    splits = {name: split for name, split in splits.items() if _contains_any(name, split, samples)}
    return ListedSplits(splits, tuple(read), tuple(unreadable))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, InvalidParameter):
        return error.errors[0][1]
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _contains_any(name: str, split: Split, samples: Sequence[str]) -> bool:
    try:
        check_not_empty({name: split}, samples)
    except InvalidParameter:
        return False
    return True
