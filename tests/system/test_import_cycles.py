"""The modules of statsvc and statsvc_workers import each other without cycles.

Imports inside functions and under TYPE_CHECKING count, too: a cycle through them is still two modules that
cannot be understood, tested or moved separately. The checks read the source and import nothing.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = {"statsvc": ROOT / "statsvc", "statsvc_workers": ROOT / "workers" / "statsvc_workers"}


def find_modules(packages: dict[str, Path]) -> dict[str, Path]:
    """Return module name → file of every module in these packages."""
    modules = {}
    for package, folder in packages.items():
        for file in folder.rglob("*.py"):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def imports_of(module: str, file: Path, modules: dict[str, Path]) -> set[str]:
    """Return the modules that any import statement in a file names."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names = imported_names(ast.parse(file.read_text(encoding="utf-8")), package)
    # `from a.b import c` names the module a.b.c if there is one, and otherwise an object in a.b.
    return {target for name in names if (target := nearest_module(name, modules)) not in ("", module)}


def imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the absolute dotted names that a module in `package` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}"


def nearest_module(name: str, modules: dict[str, Path]) -> str:
    """Return the module that a dotted name is, or is defined in; an empty string for other packages."""
    if name in modules:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in modules else ""


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one import cycle, first module repeated at the end; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle[::-1]  # graphlib lists each module after the ones it depends on
    return []


def import_graph(packages: dict[str, Path]) -> dict[str, set[str]]:
    modules = find_modules(packages)
    return {module: imports_of(module, file, modules) for module, file in modules.items()}


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph = import_graph(PACKAGES)
    assert len(graph) > 100
    assert " -> ".join(find_cycle(graph)) == ""


def test_the_check_sees_top_level_lazy_type_only_and_relative_imports(tmp_path: Path) -> None:
    statements = {
        "top-level": "import pkg.b",
        "from": "from pkg.b import name",
        "module": "from pkg import b",
        "relative": "from . import b",
        "relative module": "from .b import name",
        "lazy": "def f():\n    from pkg.b import name",
        "type-only": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.b import name",
    }
    for kind, statement in statements.items():
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "a.py").write_text(statement)
        (folder / "b.py").write_text("name = 1")
        packages = {"pkg": folder}
        assert import_graph(packages)["pkg.a"] >= {"pkg.b"}, kind
        assert find_cycle(import_graph(packages)) == [], kind
        (folder / "b.py").write_text("from pkg.a import name")
        assert find_cycle(import_graph(packages)) in (
            ["pkg.a", "pkg.b", "pkg.a"],
            ["pkg.b", "pkg.a", "pkg.b"],
        ), kind
