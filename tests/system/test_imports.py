"""What importing statsvc costs, and which names it offers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import statsvc
from statsvc.store import home as homes
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from support.commands import statsvc as statsvc_command
from support.label_maps import random_labels, write_png
from support.servers import free_port, responds
from support.waiting import wait_for, wait_until_stable

HEAVY = [
    "PIL",
    "alembic",
    "anyio",
    "click",
    "dask",
    "deflate",
    "distributed",
    "fastapi",
    "h5py",
    "httpx2",
    "hydra",
    "lightning",
    "llvmlite",
    "matplotlib",
    "mlflow",
    "monai",
    "nibabel",
    "numba",
    "numcodecs",
    "pyarrow",
    "pycocotools",
    "pydantic",
    "rich",
    "sqlalchemy",
    "starlette",
    "tensorboard",
    "torch",
    "transformers",
    "uvicorn",
    "wandb",
    "statsvc_workers",
    "xxhash",
    "yaml",
    "zarr",
]


def packages_loaded_by(code: str) -> set[str]:
    """Return the top-level packages that a new interpreter loads when it runs `code`."""
    show = "import json, sys; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        capture_output=True,
        text=True,
        cwd=Path(statsvc.__file__).parents[1],
        check=True,
    )
    return set(json.loads(process.stdout.splitlines()[-1]))


def test_importing_statsvc_loads_only_the_standard_library() -> None:
    loaded = packages_loaded_by("import statsvc") - packages_loaded_by("pass")
    assert loaded - sys.stdlib_module_names == {"statsvc"}


@pytest.mark.parametrize("name", sorted(statsvc.__all__))
def test_importing_a_public_name_loads_no_heavy_package(name: str) -> None:
    assert packages_loaded_by(f"from statsvc import {name}").isdisjoint(HEAVY)


def test_the_check_detects_a_heavy_package() -> None:
    assert "yaml" in packages_loaded_by("import yaml")


RECORDS = {"msgspec", "typing_extensions"}
STORED = RECORDS | {"click", "numpy", "xxhash", "zstandard"}
"""What any command that reads the catalog and versions needs."""

SLOW = {
    *("asyncio", "concurrent", "csv", "dataclasses", "difflib", "email", "hashlib", "html", "http"),
    *("multiprocessing", "random", "shutil", "socket", "ssl", "statistics", "subprocess", "tarfile"),
    *("tempfile", "unicodedata", "zipfile"),
}
"""Modules of the standard library that take up to 13 ms to import, and that most commands do not need."""

BUDGETS: list[tuple[str, set[str], set[str]]] = [
    ("--help", RECORDS | {"click", "numpy"}, {"csv", "shutil", "subprocess"}),
    (
        "scan FOLDER",
        STORED | {"PIL", "bracex", "imagecodecs", "llvmlite", "wcmatch"},
        SLOW - {"asyncio", "email", "html", "http", "ssl", "statistics", "tarfile"},
    ),
    ("scan FOLDER", STORED - {"numpy"}, set()),
    ("scan FOLDER --json", STORED - {"numpy"}, set()),
    ("datasets", STORED - {"numpy", "xxhash", "zstandard"}, set()),
    ("versions", STORED - {"numpy", "xxhash", "zstandard"}, set()),
    ("jobs", STORED - {"numpy", "xxhash", "zstandard"}, set()),
    ("weights", STORED, set()),
    ("verify", STORED, set()),
    ("gc", STORED, set()),
]
"""Commands in the order in which the test runs them, with the packages and slow modules they may load."""


def test_each_command_loads_only_the_packages_that_it_needs(tmp_path: Path) -> None:
    write_png(tmp_path / "labels" / "a.png", random_labels(0))
    wait_until_stable(tmp_path / "labels")
    before = packages_loaded_by("pass")
    for command, packages, modules in BUDGETS:
        arguments = command.replace("FOLDER", str(tmp_path / "labels")).split()
        if command != "--help":
            arguments += ["--home", str(tmp_path / "home")]
        code = f"import contextlib, sys; sys.argv[1:] = {arguments}\nfrom statsvc.cli import main\n"
        code += "with contextlib.suppress(SystemExit): main()"
        loaded = packages_loaded_by(code) - before
        assert loaded & SLOW <= modules, command
        others = loaded - sys.stdlib_module_names - {"statsvc", "statsvc_workers"}
        compiled = {
            name for name in others if name.startswith(("_cython", "cython", "_shared", "__mp", "_sysconfig"))
        }
        assert others - compiled <= packages, command


@pytest.mark.slow
def test_a_server_and_a_runner_on_sqlite_do_not_load_sqlalchemy(tmp_path: Path) -> None:
    """Python reports the imports of every process: the server, its runner, and the processes of jobs."""
    write_png(tmp_path / "labels" / "a.png", random_labels(0))
    home = homes.resolve(str(tmp_path / "home"))
    statsvc_command("scan", tmp_path / "labels", "--home", home.folder, "--name", "maps")
    catalog = Catalog.open(home.database)
    job, _ = jobs.submit(catalog, catalog.dataset("maps"), full=True)
    port = free_port()
    log = tmp_path / "imports"
    with log.open("w") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-m", "statsvc", "serve", "--home", str(home.folder), "--port", str(port)],
            stdout=stderr,
            stderr=stderr,
            env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        )
    try:
        wait_for(lambda: responds(f"http://127.0.0.1:{port}/weights"))
        wait_for(lambda: jobs.get(catalog, job.id).ended)
        assert jobs.get(catalog, job.id).state == "succeeded"
    finally:
        server.terminate()
        server.wait(60)
        catalog.close()
    lines = [line for line in log.read_text().splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert {"fastapi", "msgspec", "statsvc_workers", "uvicorn"} <= loaded
    assert loaded.isdisjoint({"sqlalchemy", "alembic", "psycopg"})


def test_the_public_names_do_not_change() -> None:
    assert statsvc.__all__ == [
        "ClassWeights",
        "Client",
        "Conflict",
        "DamagedVersion",
        "InvalidParameter",
        "LocalTable",
        "NotFound",
        "ServerError",
        "SourceError",
        "StatsvcError",
        "Unanswerable",
        "WeightSpec",
        "__version__",
        "calculate_class_weights",
        "class_weights",
        "scan",
    ]
    assert set(statsvc.__all__) <= set(dir(statsvc))


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in statsvc.__all__:
        value = getattr(statsvc, name)
        assert name == "__version__" or value.__doc__, name


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="class_weight'"):
        statsvc.class_weight  # noqa: B018


def test_the_version_equals_that_of_the_package_metadata() -> None:
    project = Path(statsvc.__file__).parents[1] / "pyproject.toml"
    assert statsvc.__version__ == tomllib.loads(project.read_text())["project"]["version"]
