"""Processes forked from a template: their answers, their end, and scans in which one of them is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from statsvc_workers.processes import forked
from support.commands import scan_json
from support.expected import counted_by_pillow, pixels_of
from support.label_maps import random_labels, write_png
from support.processes import children, descendants, is_alive, open_files
from support.waiting import wait_for, wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = """
import os, sys
from statsvc_workers.processes.forked import Template, call

template = Template()
first, second = (template.fork() for _ in range(2))
pids = [call(connection, os.getpid) for connection in (first, second)]
print(*pids, flush=True)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, threads count")


@contextlib.contextmanager
def script(*lines: str, first: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a line, `SCRIPT` and more lines in a process without threads."""
    command = [sys.executable, "-c", "\n".join((first, SCRIPT, *lines))]
    packages = os.pathsep.join(str(Path(forked.__file__).parents[up]) for up in (2, 3))
    environment = os.environ | {"PYTHONPATH": packages}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output(*lines: str) -> list[str]:
    with script(*lines) as process:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    return printed.splitlines()


def test_each_call_runs_in_the_forked_process() -> None:
    pids, *answers = output(
        "print(call(first, os.getpid), call(second, os.getpid), call(first, os.getppid) == os.getpid())",
        "print(call(first, divmod, 17, 5))",
    )
    assert answers == [f"{pids} False", "(3, 2)"]


def test_a_call_fails_if_its_process_is_killed_or_raises_and_others_go_on() -> None:
    _, *answers = output(
        "for connection, function, args in (",
        "    (first, os.kill, (pids[0], 9)), (template.fork(), divmod, (1, 0))",
        "):",
        "    try: call(connection, function, *args)",
        "    except (EOFError, OSError): print('ended')",
        "print(call(second, len, 'abc'))",
    )
    assert answers == ["ended", "ended", "3"]


def test_a_call_fails_if_its_process_hangs_and_not_if_it_computes() -> None:
    _, *answers = output(
        "os.kill(pids[0], 19)",  # SIGSTOP
        "try: call(first, os.getpid, timeout=1)",
        "except TimeoutError as error: print(error)",
        "print(call(second, eval, 'sum(range(10 ** 8))', timeout=0.2))",
    )
    assert answers[0].endswith("gave no sign of life for 1 s")
    assert answers[1] == "4999999950000000"


def test_kill_ends_the_forked_processes_and_the_template_forks_more() -> None:
    _, *answers = output(
        "template.kill()",
        "for connection in (first, second):",
        "    try: connection.recv()",
        "    except EOFError: print('ended')",
        "print(call(template.fork(), len, 'abc'))",
    )
    assert answers == ["ended", "ended", "3"]


def test_a_call_fails_if_the_template_hangs_and_not_if_it_computes() -> None:
    _, *answers = output(
        "template.prepare(eval, 'sum(range(10 ** 8))')",
        "print(call(template.fork(), len, 'abc', timeout=0.2))",
        "template.prepare(eval, '__import__(\"time\").sleep(1000)')",
        "try: call(template.fork(), len, 'abc', timeout=1)",
        "except TimeoutError as error: print(error)",
        "template.close()",
    )
    assert answers[0] == "3"
    assert answers[1].endswith("gave no sign of life for 1 s")


def test_a_template_that_hangs_leaves_its_files_to_workers_and_is_ended(tmp_path: Path) -> None:
    for number in range(4):
        write_png(tmp_path / f"{number}.png", random_labels(number))
    _, *answers = output(
        "import signal",
        "from statsvc_workers.cluster.count_options import CountOptions",
        "from statsvc_workers.cluster.in_process import ImmediateCount",
        "from statsvc_workers.cluster.local_cluster import LocalCluster",
        "template.kill()",
        "os.kill(template._pid, signal.SIGSTOP)",
        "cluster = LocalCluster(workers=2, template=template)",
        f"options = CountOptions({str(tmp_path)!r}, 1 << 20, 'cpu', stall_timeout=1.0)",
        "samples = [(f'{number}.png', 100) for number in range(4)]",
        "counting = ImmediateCount(cluster, options, samples, lambda: None)",
        "print(len(list(counting.results())), sorted(counting.remaining) == samples, cluster.template)",
        # The next job counts in threads.
        "counting = ImmediateCount(cluster, options, samples, lambda: None)",
        "print(sum(len(rows.path) for rows in counting.results()), counting.remaining)",
    )
    assert answers == ["0 True None", "4 []"]


def test_what_the_template_has_loaded_is_loaded_in_its_processes() -> None:
    _, *answers = output(
        "template.prepare(__import__, 'colorsys')",
        'is_loaded = \'"colorsys" in __import__("sys").modules\'',
        "print(eval(is_loaded), call(template.fork(), eval, is_loaded))",
    )
    assert answers == ["False True"]


def test_a_template_that_died_is_an_error_of_the_system_and_can_be_closed() -> None:
    _, *answers = output(
        "os.kill(template._pid, 9)",
        "os.waitid(os.P_PID, template._pid, os.WEXITED | os.WNOWAIT)",
        "template.kill()",
        "try: template.fork()",
        "except OSError: print('died')",
        "template.close()",
        "print(template.available)",
    )
    assert answers == ["died", "False"]


def test_the_processes_do_not_keep_a_file_of_the_first_one_open(tmp_path: Path) -> None:
    file = tmp_path / "labels.png"
    file.touch()
    with script("sys.stdin.read()", first=f"file = open({str(file)!r})") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert file in open_files(process.pid)
        forked_pids = descendants(process.pid)
        assert len(forked_pids) == 3
        assert not any(file in open_files(pid) for pid in forked_pids)


def test_all_processes_end_when_the_first_one_is_killed() -> None:
    with script("sys.stdin.read()") as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        assert set(pids) < set(descendants(process.pid))
        every = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, every)))


def test_a_process_with_threads_has_no_template() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        template = forked.Template()
        assert not template.available
        with pytest.raises(BrokenPipeError):
            template.fork()
        template.kill()
        template.close()
    finally:
        ended.set()
        thread.join()


def test_the_counts_are_exact_although_a_process_is_killed_while_it_counts(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for number in range(1500):
        write_png(labels / f"{number:04}.png", random_labels(number))
    wait_until_stable(labels)
    command = [sys.executable, "-m", "statsvc", "scan", labels, "--workers", "1", "--home", tmp_path / "home"]
    with subprocess.Popen(
        [*map(str, command), "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as scan:
        [counting] = wait_for(lambda: [pid for child in children(scan.pid) for pid in children(child)])
        os.kill(counting, signal.SIGKILL)
        printed, _ = scan.communicate(timeout=240)
    assert scan.returncode == 0
    answer = json.loads(printed)
    assert answer["scan"]["counted"] == 1500
    expected = counted_by_pillow(labels)
    del expected[255]  # ignored by default
    assert pixels_of(answer["weights"]) == expected


def test_the_process_that_runs_jobs_of_a_runner_has_a_template(tmp_path: Path) -> None:
    labels, home = write_png(tmp_path / "labels" / "a.png", random_labels(0)).parent, str(tmp_path / "home")
    scan_json(str(labels), "--home", home)
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-m", "statsvc", "runner", "--home", home]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as runner:
        try:
            wait_for(lambda: any(map(children, children(runner.pid))))
        finally:
            runner.terminate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_scan_that_is_stopped_and_the_next_scan_is_exact(
    tmp_path: Path, number: signal.Signals
) -> None:
    labels = tmp_path / "labels"
    for file in range(1500):
        write_png(labels / f"{file:04}.png", random_labels(file))
    wait_until_stable(labels)
    arguments = ["scan", str(labels), "--name", "labels", "--home", str(tmp_path / "home")]
    with subprocess.Popen([sys.executable, "-m", "statsvc", *arguments], stderr=subprocess.DEVNULL) as scan:
        wait_for(lambda: [pid for child in children(scan.pid) for pid in children(child)])
        processes = descendants(scan.pid)
        scan.send_signal(number)
        scan.wait(120)
        wait_for(lambda: not any(map(is_alive, processes)))
    answer = scan_json(*arguments[1:])
    assert answer["scan"]["counted"] + answer["scan"]["reused"] == 1500
    expected = counted_by_pillow(labels)
    del expected[255]  # ignored by default
    assert pixels_of(answer["weights"]) == expected
