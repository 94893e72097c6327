"""Splits that a dataset defines in files: the lists of Pascal VOC, and the folds of nnU-Net."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

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


def listed_splits(root: str, paths: Iterable[str], samples: Sequence[str]) -> tuple[dict[str, Split], str]:
    """Return the splits that the files of a source define, and the first of these files.

    paths    paths of all files of the source
    samples  paths of the label maps; a split that contains none of them is left out

    The splits are empty and the path is "" where there are no such files, or where they cannot be read.
    """
    files = sorted(path for path in paths if LIST.fullmatch(path) or FOLDS.fullmatch(path))
    entries: dict[str, list[str]] = {}
    folds: dict[str, Split] = {}
    for path in files:
        try:
            with open_bytes(root, path) as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                continue
            text = content.decode("utf-8")
            if match := LIST.fullmatch(path):
                names = [line.split()[0] for line in text.splitlines() if line.strip()]
                entries.setdefault(match.group(1), []).extend(names)
            else:
                folds |= folds_of(json.loads(text), path)
        except (OSError, ValueError, RecursionError, InvalidParameter):
            continue
    splits = folds | {name: Split.listed(name, names) for name, names in entries.items() if names}
    splits = {name: split for name, split in splits.items() if _contains_any(name, split, samples)}
    return splits, files[0] if splits else ""


def _contains_any(name: str, split: Split, samples: Sequence[str]) -> bool:
    try:
        check_not_empty({name: split}, samples)
    except InvalidParameter:
        return False
    return True
