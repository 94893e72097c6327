"""Each integration needs its own package, no other, and says so where it is missing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "statsvc" / "integrations"
LIGHT = set(sys.stdlib_module_names) | {"statsvc", "numpy"}
NEEDS = {
    "lightning": {"lightning", "pytorch_lightning"},
    "mmseg_loss": {"mmseg", "torch"},
    "monai": {"torch"},
    "nnunet": {"nnunetv2", "torch"},
    "ranks": {"torch"},
    "symptoms": {"torch"},
    "trackers": {"mlflow"},
    "transformers": {"transformers", "torch"},
}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_an_integration_imports_its_own_package_and_no_other(file: Path) -> None:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module).split(".")[0])
    assert found - LIGHT == NEEDS.get(file.stem, set())


def loads(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_monitor_and_the_fragment_load_no_framework() -> None:
    done = loads(
        "import statsvc.integrations.mmseg, sys\n"
        "print([name for name in ('torch', 'wandb', 'mlflow', 'tensorboard') if name in sys.modules])"
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("module", "missing", "install"),
    [
        ("lightning", ("lightning", "pytorch_lightning"), "pip install lightning"),
        ("transformers", ("transformers",), "pip install transformers accelerate"),
        ("nnunet", ("nnunetv2",), "pip install nnunetv2"),
        ("mmseg_loss", ("mmseg",), "pip install mmsegmentation"),
    ],
)
def test_a_missing_package_is_named_with_how_to_get_it(
    module: str, missing: tuple[str, ...], install: str
) -> None:
    gone = "; ".join(f"sys.modules[{name!r}] = None" for name in missing)
    done = loads(f"import sys; {gone}; import statsvc.integrations.{module}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: statsvc.integrations.{module} needs ")
    assert done.stderr.splitlines()[-1].endswith(install)
