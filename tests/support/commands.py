"""Commands of statsvc, run as separate processes."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from support.servers import free_port, responds
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND_TIMEOUT = 240


def statsvc(
    *arguments: str | Path | int, code: int | None = 0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it. Fail with its output if it ends with another exit code; None: any.

    options  options of `subprocess.run`
    """
    command = [sys.executable, "-m", "statsvc", *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, **options)
    assert code in (None, process.returncode), (
        f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
    )
    assert "Traceback" not in process.stderr
    return process


def scan_json(*arguments: str | Path | int, code: int = 0) -> dict[str, Any]:
    """Run `statsvc scan --json` and return what it printed."""
    result: dict[str, Any] = json.loads(statsvc("scan", *arguments, "--json", code=code).stdout)
    return result


@contextmanager
def serve(
    home: Path, *arguments: str | Path, port: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `statsvc serve`, by default on a free port; yield its URL and process when it is ready."""
    port = port or free_port()
    command = [sys.executable, "-m", "statsvc", "serve", "--home", str(home), "--port", str(port)]
    with subprocess.Popen([*command, *map(str, arguments)], stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: responds(url + "/readyz"))
            yield url, process
        finally:
            process.terminate()
            process.wait(60)
