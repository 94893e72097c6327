"""The result of a division or a choice: lists of paths, and a report as JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field  # noqa: TID251 - a field is left out of the representation
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from statsvc.dataset.splits import Split, path_stem
from statsvc.errors import InvalidParameter, StatsvcError, Unanswerable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MAX_REGISTERED = 250_000
"""Largest number of paths, over all splits, that are stored in a configuration."""

TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class SplitResult:
    """Parts of a dataset.

    parts   paths of each part, by name
    report  what was reached, as JSON: see docs/how-to/split-a-dataset.md
    folds   True if each part is the val split of a fold whose train split is all other parts
    """

    parts: Mapping[str, Sequence[str]] = field(repr=False)
    report: Mapping[str, Any]
    folds: bool = False

    def splits(self) -> dict[str, list[str]]:
        """Return the paths of each split: the parts, or `fold0_train`, `fold0_val`, … for folds."""
        if not self.folds:
            return {name: list(paths) for name, paths in self.parts.items()}
        result: dict[str, list[str]] = {}
        for name, paths in self.parts.items():
            others = [path for other, rest in self.parts.items() if other != name for path in rest]
            result[f"{name}_{TRAIN}"], result[f"{name}_{VAL}"] = sorted(others), list(paths)
        return result

    def configured(self) -> dict[str, Split]:
        """Return the splits for a dataset's configuration.

        Raises `Unanswerable` if they list more than `MAX_REGISTERED` paths.
        """
        total = sum(map(len, self.parts.values())) * (len(self.parts) if self.folds else 1)
        if total > MAX_REGISTERED:
            raise Unanswerable(
                f"the splits list {total} paths, but at most {MAX_REGISTERED} can be registered; write "
                "them to files instead (--output FOLDER)"
            )
        return {name: Split(paths=frozenset(paths)) for name, paths in self.splits().items()}

    def to_json(self) -> str:
        """Return the splits as JSON: for folds `[{"train": […], "val": […]}, …]`, as nnU-Net reads it.

        Entries are file names without extension, the case identifiers of nnU-Net, unless two samples have the
        same one; then they are relative paths.
        """
        short = self._short_names()
        if not self.folds:
            return _dumps({name: [short[path] for path in paths] for name, paths in self.parts.items()})
        splits = self.splits()
        content = [
            {kind: [short[path] for path in splits[f"{name}_{kind}"]] for kind in (TRAIN, VAL)}
            for name in self.parts
        ]
        return _dumps(content)

    def to_csv(self) -> str:
        """Return CSV with the columns path and part."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "part"])
        rows = [(path, name) for name, paths in self.parts.items() for path in paths]
        writer.writerows(sorted(rows))
        return stream.getvalue()

    def write(self, output: Path) -> list[Path]:
        """Write the splits, and return the files.

        A name ending in .json or .csv is one file, see `to_json` and `to_csv`. Any other name is a folder,
        with a list `NAME.txt` of relative paths for each split.

        Raises `StatsvcError` if a file cannot be written.
        """
        suffix = output.suffix.lower()
        if suffix == ".json":
            contents = {output: self.to_json()}
        elif suffix == ".csv":
            contents = {output: self.to_csv()}
        elif suffix:
            raise InvalidParameter(
                (
                    "output",
                    f"the format of {output} is unknown; use a name ending in .json or .csv, or a folder",
                )
            )
        else:
            contents = {
                output / f"{name}.txt": "".join(f"{path}\n" for path in paths)
                for name, paths in self.splits().items()
            }
        for file, text in contents.items():
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8", newline="")
            except OSError as error:
                raise StatsvcError(f"{file} cannot be written: {error.strerror}") from error
        return list(contents)

    def _short_names(self) -> dict[str, str]:
        paths = [path for group in self.parts.values() for path in group]
        short = {path: path_stem(PurePosixPath(path).name) for path in paths}
        return short if len(set(short.values())) == len(paths) else {path: path for path in paths}


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
