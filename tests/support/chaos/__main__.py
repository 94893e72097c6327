"""`make chaos`: a long run, which prints each fault on stderr and the tally on stdout.

A run that finds an error keeps its folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from support.chaos.faults import HANG_SECONDS, LONGEST_SECONDS
from support.chaos.forms import FORMS
from support.chaos.run import Violation, chaos


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--form", choices=sorted(FORMS), default="cluster")
    parser.add_argument("--faults", type=int, default=200, help="number of faults")
    parser.add_argument("--seed", type=int, default=0, help="determines the faults and their order")
    parser.add_argument(
        "--hang",
        type=float,
        default=HANG_SECONDS,
        help="longest stop of Dask's scheduler and workers, in seconds",
    )
    parser.add_argument(
        "--longest", type=float, default=LONGEST_SECONDS, help="leave out faults that last longer, in seconds"
    )
    options = parser.parse_args()
    os.environ["STATSVC_CACHE"] = os.devnull
    folder = Path(tempfile.mkdtemp(prefix="statsvc-chaos-"))

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        limits = {"hang": options.hang, "longest": options.longest}
        tally = chaos(folder, options.form, options.faults, options.seed, **limits, report=report)
    except Violation as violation:
        traceback.print_exception(violation.__cause__)
        print(f"\n{violation}", file=sys.stderr)
        return 1
    print(tally)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
