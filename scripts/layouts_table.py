"""Print the table of docs/explanation/reading-label-maps.md: what a scan does with each tree of the tests.

python scripts/layouts_table.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.dataset_trees import TREES, Tree


def layouts_table() -> str:
    """Return the table as Markdown; `tests/workers/test_layout_table.py` checks each row."""
    lines = ["| layout | label maps | the scan | names | splits |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {_files(tree)} | {_action(tree)} | {_names(tree)} | {_splits(tree)} |"
        for name, tree in TREES.items()
    ]
    return "\n".join(lines)


def _files(tree: Tree) -> str:
    groups = tree.counted or tree.choices or tuple(tree.groups)
    return ", ".join(f"`{tree.paths(group)[0]}`" for group in groups[:3])


def _action(tree: Tree) -> str:
    layout = f", `{tree.layout}`" if tree.layout else ""
    if tree.counted:
        return f"counts{layout}" + (", with a note" if tree.noted else "")
    if tree.rule:
        return f"asks, `--rule {tree.rule}`{layout}"
    return f"asks, {len(tree.choices)} patterns{layout}"


def _names(tree: Tree) -> str:
    return ", ".join(tree.names)


def _splits(tree: Tree) -> str:
    return ", ".join(f"{name} {samples}" for name, samples in tree.splits.items())


if __name__ == "__main__":
    print(layouts_table())
