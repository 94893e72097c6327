"""Which files of each tree of `support.dataset_trees` are counted, under which names, in which splits."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
from PIL import Image

import statsvc
from statsvc.classes.palettes import OVERLAP
from statsvc.dataset.known_layouts import find_layout
from statsvc.errors import AmbiguousSource
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.sources import open_source
from support.dataset_trees import TREES, Tree

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def pixels(path: Path, colors: tuple[tuple[int, int, int], ...] = ()) -> NDArray[Any]:
    """Return the ids of a label map, read by NumPy, nibabel or Pillow."""
    if path.suffix == ".npy":
        array: NDArray[Any] = np.load(path)
        return array
    if ".nii" in path.name:
        return np.asarray(nibabel.load(path).dataobj)
    with Image.open(path) as image:
        if not colors:
            return np.asarray(image)
        table = np.array([int.from_bytes(bytes(color)) for color in colors])
        packed = np.asarray(image.convert("RGB")).astype(int) @ (65536, 256, 1)
        return np.asarray(np.argmax(packed[..., None] == table, -1))


def expected(root: Path, paths: Iterable[str], colors: tuple[tuple[int, int, int], ...]) -> Counter[int]:
    """Return id → pixels of label maps."""
    return Counter(int(i) for path in paths for i in pixels(root / path, colors).ravel())


def merged(root: Path, tree: Tree) -> Counter[int]:
    """Return id → pixels of pictures whose masks are the groups of a tree, in the order of their names."""
    counts: Counter[int] = Counter()
    for image in tree.images:
        masks = [
            pixels(root / str(tree.groups[name]).format(image)) != 0 for name in sorted(tree.groups, key=str)
        ]
        number = sum(mask.astype(int) for mask in masks)
        ids = sum(mask * k for k, mask in enumerate(masks, 1))
        counts.update(np.where(number > 1, OVERLAP, ids).ravel().tolist())
    return counts


def counted(table: statsvc.LocalTable) -> Counter[int]:
    """Return the pixels of each raw id that occurs."""
    totals = table.totals()
    return Counter({int(i): int(n) for i, n in zip(totals.class_id, totals.pixels, strict=True) if n})


def check(table: statsvc.LocalTable, tree: Tree, counts: Counter[int]) -> None:
    """Check counts, splits and names of a scan."""
    configuration = table.configuration
    assert counted(table) == counts
    paths = list(table.rows.path)
    sizes = {name: sum(map(split.contains, paths)) for name, split in configuration.splits.items()}
    assert sizes == tree.splits
    assert configuration.class_names[: len(tree.names)] == tree.names


@pytest.mark.parametrize("name", TREES)
def test_the_label_maps_of_a_layout_are_counted_or_asked_for(tmp_path: Path, name: str) -> None:
    tree = TREES[name]
    tree.create(tmp_path)
    if tree.counted:
        table = statsvc.scan(tmp_path)
        paths = sorted(path for group in tree.counted for path in tree.paths(group))
        selection = table.configuration.selection
        assert selection is not None
        assert list(table.rows.path) == paths
        assert selection.layout == tree.layout
        assert tree.noted in " ".join(selection.notes)
        assert tree.noted or not any("counted" in note for note in selection.notes)
        skipped = [path for group in tree.groups if group not in tree.counted for path in tree.paths(group)]
        assert sum(group.files for group in selection.skipped) == len(skipped)
        check(table, tree, expected(tmp_path, paths, tree.colors))
        return
    with pytest.raises(AmbiguousSource) as caught:
        open_source(str(tmp_path), None)
    assert (f"--layout {tree.layout} " in str(caught.value)) is (tree.layout is not None)
    if tree.rule is not None:
        assert f"--rule {tree.rule} " in str(caught.value)
        table = statsvc.scan(tmp_path, rule=tree.rule, layout=tree.layout)
        check(table, tree, merged(tmp_path, tree))
        return
    offered = [list(list_samples(open_source(str(tmp_path), p)).path) for p in caught.value.patterns]
    assert sorted(offered) == sorted(tree.paths(group) for group in tree.choices)
    paths = tree.paths(tree.choices[0])
    if tree.layout is not None and find_layout(tree.layout).rule is not None:
        table = statsvc.scan(tmp_path, layout=tree.layout)
    else:
        table = statsvc.scan(tmp_path, pattern=caught.value.patterns[offered.index(paths)])
    check(table, tree, expected(tmp_path, paths, tree.colors))


def test_the_documentation_has_the_table() -> None:
    folder = Path(__file__).parents[2]
    command = [sys.executable, "scripts/layouts_table.py"]
    table = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    page = (folder / "docs" / "explanation" / "reading-label-maps.md").read_text(encoding="utf-8")
    assert table in page
    assert all(bool(tree.counted) ^ bool(tree.choices or tree.rule) for tree in TREES.values())
