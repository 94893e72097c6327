"""A command whose extra is not installed names the package and the command that installs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
sys.modules[sys.argv[1]] = None
sys.argv[:2] = ["statsvc"]
from statsvc.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("gc", "xxhash", "workers"),
        ("scan labels", "xxhash", "workers"),
        ("serve", "uvicorn", "service"),
        ("datasets --database postgresql://host/catalog", "psycopg", "postgres"),
        ("upgrade --database postgresql://host/catalog", "sqlalchemy", "postgres"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_install_command(command: str, package: str, extra: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, package, *command.split()], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == f"statsvc: {package} is not installed. Run: pip install 'statsvc[{extra}]'\n"
