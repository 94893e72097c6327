"""The command line called in this process: much faster than a new process for each command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.testing import CliRunner, Result

from statsvc.cli import cli

if TYPE_CHECKING:
    from pathlib import Path


def invoke(*arguments: str | Path | int, code: int = 0) -> Result:
    """Run a command; fail with its output if it does not end with this exit code."""
    result = CliRunner().invoke(cli, list(map(str, arguments)), prog_name="statsvc")
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    if unexpected:
        raise result.exception  # type: ignore[misc]
    assert result.exit_code == code, f"exit {result.exit_code}\n{result.output}"
    return result
