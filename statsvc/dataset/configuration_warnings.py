"""What looks wrong with how a dataset is read, though each part of it is valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statsvc.dataset.splits import path_stem

if TYPE_CHECKING:
    from statsvc.store.versions.version import Version


def doubts(table: Version) -> list[str]:
    """Return lines on choices that fit the label maps badly: too few names, lists that name no sample.

    Raises `DamagedVersion`.
    """
    configuration, lines = table.configuration, []
    names, classes = len(configuration.class_names), configuration.num_classes
    if 0 < names < classes:
        lines.append(f"{names} class names for {classes} classes: ids {names} to {classes - 1} have none")
    if table.has_rows and any(split.paths or split.names for split in configuration.splits.values()):
        paths = table.array("path").tolist()
        known = set(paths)
        for name, split in configuration.splits.items():
            missing = sorted(split.paths - known)
            if split.names:
                stems = {path_stem(path) for path in paths}
                missing += sorted(split.names - stems - {stem.rpartition("/")[2] for stem in stems})
            if missing:
                lines.append(
                    f"split {name}: {len(missing)} of {len(split.paths | split.names)} paths are not in the "
                    f"dataset, for instance {missing[0]}; write them relative to the source, as {paths[0]}"
                )
    return lines
