"""Commands of statsvc as processes, and what several tests of them share."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
from PIL import Image

from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def statsvc(*arguments: str | Path, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; fail with what it printed where it ends with another exit code."""
    command = [sys.executable, "-m", "statsvc", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def grey(value: int, shape: tuple[int, int]) -> bytes:
    """Return a PNG of one value, as Pillow writes it."""
    data = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(data, "PNG")
    return data.getvalue()


def scanned(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    return json.loads(statsvc("scan", *arguments, "--json", code=code).stdout)


def settle(folder: Path) -> None:
    """Wait until no file is so new that a scan would wait before it reads it."""
    newest = max(file.stat().st_ctime for file in folder.rglob("*") if file.is_file())
    time.sleep(max(0.0, newest + 2.1 - time.time()))


def waited_for(condition: Any, seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing after {seconds} s")


def without_end(folder: Path) -> Path:
    """Make a folder of label maps that is counted last, for longer than a test waits; return it.

    Its files are zeros that take no room on the disk and still have to be read through: 2000 NPY arrays
    of 64 MiB.
    """
    long = folder / "zz-long"
    long.mkdir()
    pixels = 1 << 26
    header = {"shape": (1, pixels), "fortran_order": False, "descr": "|u1"}
    for number in range(2000):
        with (long / f"{number:04d}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + pixels)
    return long


@contextmanager
def served(
    home: Path, *arguments: str | Path, port: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `statsvc serve`, on a free port if none is given; yield its URL once it is ready."""
    port = port or free_port()
    command = [sys.executable, "-m", "statsvc", "serve", "--home", str(home), "--port", str(port)]
    with subprocess.Popen([*command, *map(str, arguments)], stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            waited_for(lambda: answers(url + "/readyz"))
            yield url, process
        finally:
            process.terminate()
            process.wait(20)


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
