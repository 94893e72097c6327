"""A scan during which the clock of its host is set back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.label_maps import write_folder
from support.moved_clock import MovedClock

TESTS = Path(__file__).parents[1]

PROGRAM = """
import os, struct, sys
from pathlib import Path
from statsvc.store.catalog.catalog import Catalog
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.jobs.progress import Progress
from support.scans import Workspace, assert_matches_folder

home, labels = map(Path, sys.argv[1:])
catalog = Catalog.open(f"sqlite:///{home / 'catalog.sqlite'}")
workspace = Workspace(home, catalog, LocalCluster(workers=1))
workspace.add(labels)
progress, waited = Progress(), False

def set_back_while_waiting():
    global waited
    if progress.stage == "waiting for files that changed just now" and not waited:
        waited = True
        Path(os.environ["MOVED_CLOCK"]).write_bytes(struct.pack("<q", -3600))
    return False

while not waited:
    for file in labels.rglob("*.png"):
        file.touch()
    workspace.scan(stop=set_back_while_waiting, progress=progress)
assert_matches_folder(workspace.version(), labels)
workspace.cluster.close()
catalog.close()
"""


def test_a_scan_that_waits_for_new_files_does_not_wait_for_a_clock_that_is_set_back(tmp_path: Path) -> None:
    labels = write_folder(tmp_path / "labels", files=4)
    environment = os.environ | MovedClock(tmp_path / "clock").environment | {"PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "home"), str(labels)]
    subprocess.run(command, env=environment, check=True, timeout=240)  # without the wait, it takes seconds
