"""An unchanged scan prints what a scan that reads the version prints, and loads little."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

import statsvc as package
from statsvc.cli._default_answer import CODE, FOLDER, code_files
from statsvc.local.demo import CLASS_NAMES
from support.command_line import invoke
from support.commands import statsvc
from support.label_maps import random_labels, write_png
from support.waiting import wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Callable

LOADED = """
import contextlib, sys
sys.argv[1:] = {arguments}
from statsvc.cli import main
with contextlib.suppress(SystemExit):
    main()
print(sorted(sys.modules), file=sys.stderr)
"""

SLOW_PARTS = (
    "numpy",
    "PIL",
    "rich",
    "sqlalchemy",
    "multiprocessing",
    "asyncio",
    "statsvc.store.publication",
    "statsvc.store.versions.arrays",
    "statsvc.sampling",
    "statsvc.weighting.compute",
    "statsvc_workers.containers",
    "statsvc_workers.formats",
    "statsvc_workers.kernels",
    "statsvc_workers.jobs.count_changes",
    "statsvc_workers.sources.sources",
)
"""What an unchanged scan must not load."""

OF_CLUSTER = {"statsvc_workers.cluster", "statsvc_workers.cluster.away"}
"""What it may load of what counts: the name of an error."""


def modules_of_a_scan(*arguments: str | Path) -> set[str]:
    """Run a scan in a new interpreter, and return the modules that it has loaded."""
    code = LOADED.format(arguments=["scan", *map(str, arguments)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1].replace("'", '"')))


def slow_parts(modules: set[str]) -> set[str]:
    cluster = {name for name in modules if name.startswith("statsvc_workers.cluster")} - OF_CLUSTER
    return cluster | {
        name for name in modules if any(f"{name}.".startswith(f"{part}.") for part in SLOW_PARTS)
    }


def test_an_unchanged_scan_loads_no_numpy_and_nothing_that_counts(street: Path, tmp_path: Path) -> None:
    arguments = (street, "--home", tmp_path)
    assert {"numpy", "statsvc_workers.jobs.count_changes"} <= slow_parts(modules_of_a_scan(*arguments))
    assert slow_parts(modules_of_a_scan(*arguments)) == set()
    assert slow_parts(modules_of_a_scan(*arguments, "--json")) == set()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 0),
        (("--class-names", ",".join(CLASS_NAMES)), 0),
        (("--class-names", "sky,road"), 0),  # a warning about the others
        (("--ignore-index", "0,3,255", "--num-classes", "40"), 0),
        (("--split", "few=train/*1*", "--group", "part=folder:1"), 0),
        (("--grid", "2x2"), 0),
        (("--ignore-index", ",".join(map(str, range(256)))), 1),  # nothing is left to be counted
    ],
)
def test_an_unchanged_scan_prints_the_same_as_the_scan_before_and_other_commands(
    street: Path, tmp_path: Path, options: tuple[str, ...], code: int
) -> None:
    home = ("--home", tmp_path)
    first = statsvc("scan", street, *home, *options, code=code)
    again = statsvc("scan", street, *home, code=code)
    assert again.stdout == first.stdout
    summary, *warnings = again.stderr.splitlines()
    assert summary.endswith("0 counted, 24 unchanged; no new version")
    assert warnings == first.stderr.splitlines()[-len(warnings) :] if warnings else True
    shown = json.loads(statsvc("scan", street, *home, "--json", code=code).stdout)
    answer = statsvc("weights", "--json", *home, code=code)
    assert shown["weights"] == (json.loads(answer.stdout) if code == 0 else None)
    # Without the file, the answer is computed again.
    shutil.rmtree(tmp_path / FOLDER)
    assert json.loads(statsvc("scan", street, *home, "--json", code=code).stdout) == shown


def test_a_changed_configuration_or_file_changes_what_is_printed(tmp_path: Path) -> None:
    labels, home = tmp_path / "labels", ("--home", tmp_path / "home")
    for seed in range(3):
        write_png(labels / f"{seed}.png", random_labels(seed))
    wait_until_stable(labels)

    def weights(command: tuple[str | Path, ...]) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(invoke(*command, "--json", *home).stdout)
        return answer

    def scanned(*options: str) -> dict[str, Any]:
        answer: dict[str, Any] = weights(("scan", labels, *options))["weights"]
        assert answer == weights(("weights",))
        return answer

    names = [
        [row["name"] for row in scanned(*options)["classes"]] for options in ((), ("--class-names", "a,b"))
    ]
    assert (names[0][:2], names[1][:2]) == (["0", "1"], ["a", "b"])
    before = scanned()
    write_png(labels / "0.png", random_labels(9))
    wait_until_stable(labels)
    after = scanned()
    assert after["version"] == before["version"] + 1
    assert after["weights"] != before["weights"]
    assert scanned() == after


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def of_another_version(file: Path) -> None:
    key, _, rest = file.read_bytes().partition(b" ")
    file.write_bytes(key[:-1] + b"x " + rest)


def forbid_the_folder(file: Path) -> None:
    shutil.rmtree(file.parent)
    file.parent.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate, flip, empty, of_another_version, forbid_the_folder])
def test_a_damaged_or_unwritable_file_is_ignored(
    street: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    home = ("--home", tmp_path)
    first = invoke("scan", street, *home)
    [file] = (tmp_path / FOLDER).iterdir()
    content = file.read_bytes()
    harm(file)
    assert invoke("scan", street, *home).stdout == first.stdout
    if harm is not forbid_the_folder:
        assert file.read_bytes() == content


def test_the_file_of_a_deleted_dataset_is_removed_by_gc(street: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        invoke("scan", street, "--name", name, "--home", tmp_path)
    invoke("datasets", "one", "--delete", "--home", tmp_path)
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    invoke("gc", "--home", tmp_path)
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    assert "24 unchanged" in invoke("scan", street, "--name", "two", "--home", tmp_path).stderr


def test_an_answer_depends_on_every_file_of_the_code() -> None:
    import numpy as np

    folder = Path(package.__file__).parent
    stamped = {name: (size, mtime) for name, size, mtime in code_files()}
    expected = {
        str(file.relative_to(folder)): file.stat() for part in CODE for file in (folder / part).glob("*.py")
    }
    expected["numpy"] = Path(np.__file__).stat()
    assert stamped == {name: (status.st_size, status.st_mtime_ns) for name, status in expected.items()}
    assert "weighting/compute.py" in stamped


def test_a_job_fails_if_what_counts_is_not_installed(tmp_path: Path) -> None:
    labels, home = tmp_path / "labels", tmp_path / "home"
    write_png(labels / "a.png", random_labels(0))
    wait_until_stable(labels)
    statsvc("scan", labels, "--home", home)
    write_png(labels / "b.png", random_labels(1))
    code = "import sys; sys.modules['numpy'] = None\n" + LOADED.format(
        arguments=["scan", str(labels), "--home", str(home)]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = "numpy is not installed. Run: pip install 'statsvc[workers]'"
    assert f"statsvc: {message}" in done.stderr
    job = json.loads(statsvc("jobs", "--json", "--home", home).stdout)[0]
    assert (job["state"], job["error"]) == ("failed", message)
    assert "1 counted, 1 unchanged" in statsvc("scan", labels, "--home", home).stderr


INTERRUPTED = """
import sys

class Interruption:
    def find_spec(self, name, *_):
        if name == "statsvc_workers.jobs.count_changes":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interruption())
"""


def test_a_scan_that_is_interrupted_while_it_loads_what_counts_is_cancelled(tmp_path: Path) -> None:
    labels, home = tmp_path / "labels", tmp_path / "home"
    write_png(labels / "a.png", random_labels(0))
    wait_until_stable(labels)
    statsvc("scan", labels, "--home", home)
    write_png(labels / "b.png", random_labels(1))
    code = INTERRUPTED + LOADED.format(arguments=["scan", str(labels), "--home", str(home)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "statsvc: stopped." in done.stderr
    job = json.loads(statsvc("jobs", "--json", "--home", home).stdout)[0]
    assert (job["state"], job["error"]) == ("cancelled", "stopped by its user")


@pytest.mark.parametrize("name", ["counts", "pixels", "path", "class_id"])
def test_a_damaged_version_is_counted_again_though_no_file_changed(
    street: Path, tmp_path: Path, name: str
) -> None:
    first = statsvc("scan", street, "--home", tmp_path, "--json")
    [chunk] = [file for file in tmp_path.glob(f"versions/*/*/{name}/c/**/*") if file.is_file()]
    flip(chunk)
    again = statsvc("scan", street, "--home", tmp_path, "--json")
    assert f"array '{name}'" in again.stderr
    assert "24 counted, 0 unchanged; version 2" in again.stderr.replace(speed(again.stderr), "")
    before, after = (json.loads(done.stdout)["weights"] for done in (first, again))
    assert (before["weights"], after["version"]) == (after["weights"], 2)


def speed(text: str) -> str:
    """Return the speed in the summary of a scan: ` (1.2 Mpx/s)`."""
    found = re.search(r" \([0-9.]+ [MG]px/s\)", text)
    return "" if found is None else found[0]


FORKS = """
import os, sys
fork, children = os.fork, []
def counted():
    children.append(fork())
    return children[-1]
os.fork = counted
sys.argv[1:] = {arguments}
from statsvc.cli import main
if __name__ == "__main__":
    try:
        main()
    finally:
        print(len(children), file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked only on Linux")
@pytest.mark.parametrize("moves", [False, True])
def test_changed_files_are_counted_in_a_forked_process(tmp_path: Path, moves: bool) -> None:
    """Nothing that looks for changes leaves a thread behind, with which a process must not fork.

    TIFF files are inspected in a child process that a thread starts, which must not happen before.
    """
    labels, moved = tmp_path / "labels", tmp_path / "moved"
    arguments = ["scan", str(labels), "--name", "maps", "--home", str(tmp_path / "home")]
    for seed in range(3):
        write_png(labels / f"{seed}.png", random_labels(seed))
    if moves:
        for file in labels.iterdir():
            with Image.open(file) as image:
                image.save(file.with_suffix(".tif"))
            file.unlink()
        shutil.copytree(labels, moved)  # with new times of change
    wait_until_stable(tmp_path)
    statsvc(*arguments)
    if moves:
        arguments = [arguments[0], str(moved), *arguments[2:], "--move"]
    else:
        write_png(labels / "0.png", random_labels(9))
    done = subprocess.run(
        [sys.executable, "-c", FORKS.format(arguments=arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    *_, summary, forks = done.stderr.splitlines()
    assert ("3 counted, 0 unchanged" if moves else "1 counted, 2 unchanged") in summary
    assert forks == "1"
