"""Scripts that torchrun starts as several ranks on the CPU, with gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def subprocess_environment() -> dict[str, str]:
    """Return an environment for subprocesses that import `support`, with one thread each."""
    return {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}


def run_ranks(script: Path, *arguments: str, ranks: int = 2, timeout: float = 240) -> None:
    """Run a script on every rank, and fail with its output unless every rank exits with 0."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    process = subprocess.run(
        [*launcher, str(script), *arguments],
        env=subprocess_environment(),
        timeout=timeout,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def leave_process_group() -> None:
    """Leave the default process group at the end of a rank's script, together with the other ranks.

    Frameworks leave the group initialized. At interpreter exit, its gloo threads then run during the
    destruction of global objects, and the process can abort.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
