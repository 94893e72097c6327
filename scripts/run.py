"""Start the service of `make run`: draw demo label maps unless SOURCE names others, scan, and serve.

Exit code 1 of a scan means that some label maps could not be read; the others are served. A signal that ends
this process also ends the command that it runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes after Ctrl-C and SIGTERM, as a shell reports them."""


def main() -> NoReturn:
    """Run the commands; the server replaces this process."""
    statsvc, state = os.environ["STATSVC"], Path(os.environ["STATE"])
    source, name, pattern = (os.environ.get(variable, "") for variable in ("SOURCE", "NAME", "PATTERN"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if source:
        # A separate home directory for each source, so that only the dataset just counted is served.
        home = state / str(zlib.crc32(os.fsencode(source)))
        scan = [source]
        scan += ["--name", name] if name else []
        scan += ["--pattern", pattern] if pattern else []
    else:
        home, labels = state / "demo", state / "labels"
        name, classes = "demo", labels / "classes.txt"
        if not classes.exists():
            draw_demo(statsvc, labels)
        scan = [str(labels), "--name", name, "--class-names", str(classes)]
    code = run([statsvc, "scan", *scan, "--home", str(home)])
    if code != 0 and not (code == 1 and has_weights(statsvc, name, home)):
        sys.exit(code)
    os.execvp(statsvc, [statsvc, "serve", "--port", os.environ["PORT"], "--home", str(home)])


def draw_demo(statsvc: str, labels: Path) -> None:
    """Draw the demo label maps, without the command's advice to count them: that is the next step here."""
    print(f"drawing demo label maps in {labels}", file=sys.stderr, flush=True)
    drawn = subprocess.run([statsvc, "demo", str(labels)], stderr=subprocess.PIPE, text=True, check=False)
    if drawn.returncode != 0:
        sys.stderr.write(drawn.stderr)
        sys.exit(drawn.returncode)


def run(command: list[str]) -> int:
    """Run a command and return its exit code."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal sends Ctrl-C to the command as well
        process.wait()
        sys.exit(INTERRUPTED)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def has_weights(statsvc: str, name: str, home: Path) -> bool:
    """Return whether the scan has published a version."""
    command = [statsvc, "weights", *([name] if name else []), "--home", str(home)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
