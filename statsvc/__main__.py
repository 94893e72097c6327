"""Entry point of the command line: `statsvc` and `python -m statsvc`."""

import atexit
import gc
import os
import sys
import threading

from statsvc.common.interrupts import ending_silently


def main() -> None:
    """Run the command line; Ctrl-C during its imports ends the process without a traceback."""
    gc.disable()  # what imports create lives as long as the process; the command enables it again
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller has closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - until the process ends
    with ending_silently():
        from statsvc.cli import main as run_cli

    try:
        run_cli()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _end(end.code or 0)
        raise


def _end(code: int) -> None:
    """End the process, unless threads are running, after all that would be done at exit.

    Only the modules are not freed one by one, which takes 0.1 s.
    """
    if threading.active_count() > 1:
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # Python reports it
    os._exit(code)


if __name__ == "__main__":
    main()
