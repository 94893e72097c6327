from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import statsvc

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


def loaded_by(code: str) -> list[str]:
    """Return which heavy packages a fresh interpreter has loaded after running `code`."""
    show = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        capture_output=True,
        text=True,
        cwd=Path(statsvc.__file__).parents[1],
        check=True,
    )
    return json.loads(done.stdout)


def test_importing_statsvc_loads_nothing_heavy() -> None:
    assert loaded_by("import statsvc") == []


@pytest.mark.parametrize("name", sorted(statsvc.__all__))
def test_no_public_name_loads_more_than_it_needs(name: str) -> None:
    assert loaded_by(f"from statsvc import {name}") == []


def test_the_check_for_heavy_imports_sees_one() -> None:
    assert "yaml" in loaded_by("import yaml")


def test_the_public_names_are_these() -> None:
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


def test_every_public_name_exists_and_says_what_it_is() -> None:
    for name in statsvc.__all__:
        value = getattr(statsvc, name)
        assert name == "__version__" or value.__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="class_weight'"):
        statsvc.class_weight  # noqa: B018


def test_the_version_is_the_one_that_is_packaged() -> None:
    project = Path(statsvc.__file__).parents[1] / "pyproject.toml"
    assert statsvc.__version__ == tomllib.loads(project.read_text())["project"]["version"]
