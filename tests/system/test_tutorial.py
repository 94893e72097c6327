"""Every command of the README and of the tutorial runs, in the order of the page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TUTORIAL = (ROOT / "docs" / "getting-started.md").read_text()
URL = "http://127.0.0.1:8000"
START_TIMEOUT = 120.0
"""Seconds until a server must answer; `make run` draws and counts the demo label maps first."""

BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell in which the `statsvc` of these tests is installed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'workers'}"}


@contextmanager
def background(command: list[str], folder: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """Run a server command until it answers at `url`, then the body; end it as Ctrl-C does."""
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command} does not answer"
            try:
                if httpx2.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def execute(block: str, folder: Path, environment: dict[str, str]) -> None:
    """Run a Python block of a page in a separate process."""
    finished = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr


def test_the_tutorial_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    port = free_port()
    blocks = [(language, block.replace(":8000", f":{port}")) for language, block in BLOCK.findall(TUTORIAL)]
    shell = [
        line.removeprefix("$ ")
        for language, block in blocks
        if language == "console"
        for line in block.splitlines()
    ]
    (serve,) = [line for line in shell if line.startswith("statsvc serve")]
    before, after = shell[: shell.index(serve)], shell[shell.index(serve) + 1 :]
    assert len(before) >= 7

    def run(line: str) -> None:
        finished = subprocess.run(
            ["bash", "-c", line.replace("curl ", "curl --fail --silent ")],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert finished.returncode == 0, (line, finished.stderr)

    for line in before:
        run(line)
    command = serve.replace("--port 8000", f"--port {port}").split()
    with background(command, tmp_path, environment, f"http://127.0.0.1:{port}"):
        for line in after:
            run(line)
        for language, block in blocks:
            if language == "python":
                execute(block, tmp_path, environment)


def test_the_extras_that_the_tutorial_installs_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = re.findall(r"'\.\[([\w,]+)\]'", TUTORIAL + README)
    assert len(installed) >= 2
    for names in installed:
        assert set(names.split(",")) <= set(extras)


def test_the_commands_of_the_readme_run(tmp_path: Path, environment: dict[str, str]) -> None:
    shell = [block for language, block in BLOCK.findall(README) if not language]
    assert shell == ["make run\n"]
    (python,) = [block for language, block in BLOCK.findall(README) if language == "python"]
    venv, port = Path(sys.executable).parent.parent, free_port()
    # `--assume-old`: the packages are installed already, so that no network is needed.
    command = ["make", f"--assume-old={venv}/.run", "run"]
    command += [f"VENV={venv}", f"STATE={tmp_path / 'state'}", f"PORT={port}"]
    with background(command, ROOT, environment, f"http://127.0.0.1:{port}"):
        execute(python.replace(":8000", f":{port}"), tmp_path, environment)
