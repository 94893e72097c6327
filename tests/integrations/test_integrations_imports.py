"""Each integration imports only the package that it integrates with, and names it if it is missing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "statsvc" / "integrations"
ALWAYS_ALLOWED = set(sys.stdlib_module_names) | {"statsvc", "msgspec", "numpy"}
ALLOWED = {
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
    imported: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported - ALWAYS_ALLOWED == ALLOWED.get(file.stem, set())


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_the_monitor_and_the_mmsegmentation_fragment_import_no_framework() -> None:
    process = python(
        "import statsvc.integrations.mmseg, sys\n"
        "print([name for name in ('torch', 'wandb', 'mlflow', 'tensorboard') if name in sys.modules])"
    )
    assert process.stdout == "[]\n", process.stderr


@pytest.mark.parametrize(
    ("module", "packages", "message"),
    [
        (
            "integrations.lightning",
            ("lightning", "pytorch_lightning"),
            "Lightning is not installed. Run: pip install lightning",
        ),
        (
            "integrations.transformers",
            ("transformers",),
            "Transformers is not installed. Run: pip install transformers accelerate",
        ),
        ("integrations.nnunet", ("nnunetv2",), "nnU-Net is not installed. Run: pip install nnunetv2"),
        (
            "integrations.mmseg_loss",
            ("mmseg",),
            "MMSegmentation is not installed. Run: pip install mmsegmentation",
        ),
        ("losses", ("torch",), "PyTorch is not installed. Run: pip install 'statsvc[torch]'"),
        ("samplers", ("torch",), "PyTorch is not installed. Run: pip install 'statsvc[torch]'"),
    ],
)
def test_the_error_for_a_missing_package_names_the_command_that_installs_it(
    module: str, packages: tuple[str, ...], message: str
) -> None:
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in packages)
    process = python(f"import sys; {block}; import statsvc.{module}")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == f"ImportError: {message}"
