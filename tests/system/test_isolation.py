"""No other user of the machine reaches the processes that count, and none of them outlives the command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from statsvc.errors import InvalidParameter
from statsvc_workers.cluster import private_folder
from statsvc_workers.cluster.local_cluster import LocalCluster
from statsvc_workers.cluster.private_folder import PrivateFolder
from statsvc_workers.cluster.remote_cluster import checked_address
from support.label_maps import write_huge_arrays
from support.processes import descendants, is_alive, listening_ports, open_files
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER_USER = 65534
"""The user id of `nobody`."""

CONNECT = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect(sys.argv[1])
    print(connection.recv(1) or "closed")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def short_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="statsvc-test-", dir="/tmp") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(name)


def test_a_scan_listens_on_no_port_and_leaves_no_process_or_file_when_it_is_killed(
    tmp_path: Path, short_temporary_folder: Path
) -> None:
    labels = write_huge_arrays(tmp_path / "labels")
    command = [sys.executable, "-m", "statsvc", "scan", labels, "--workers", "2", "--home", tmp_path / "home"]
    scan = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)

    def workers() -> list[int]:
        return [
            pid
            for pid in descendants(scan.pid)
            if any(path.is_relative_to(labels) for path in open_files(pid))
        ]

    try:
        wait_for(lambda: len(workers()) == 2)
        processes = descendants(scan.pid)
        assert listening_ports([scan.pid, *processes]) == []
        [folder] = short_temporary_folder.glob(f"{private_folder.PREFIX}*")
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        scan.send_signal(signal.SIGKILL)
        scan.wait()
    wait_for(lambda: not any(map(is_alive, processes)))
    os.utime(folder, (0, 0))
    PrivateFolder().remove()  # what the next scan does
    assert list(short_temporary_folder.iterdir()) == []


def test_the_check_for_ports_finds_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listening_ports([os.getpid()]) == [server.getsockname()[1]]
    assert listening_ports([os.getpid()]) == []


def connect_as_other_user(path: Path) -> str:
    command = [sys.executable, "-c", CONNECT, str(path), str(OTHER_USER)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process as another user")
def test_another_user_cannot_connect_to_the_scheduler_or_a_worker(short_temporary_folder: Path) -> None:
    cluster = LocalCluster(workers=1)
    try:
        client = cluster.client()
        [folder] = short_temporary_folder.glob(f"{private_folder.PREFIX}*")
        sockets = [file for file in folder.iterdir() if file.is_socket()]
        assert len(sockets) == 3  # scheduler, worker, and the nanny that restarts the worker
        short_temporary_folder.chmod(0o755)
        assert [connect_as_other_user(path) for path in sockets] == ["PermissionError"] * 3
        # Also if the file system did not enforce the modes.
        folder.chmod(0o755)
        for path in sockets:
            path.chmod(0o666)
        assert [connect_as_other_user(path) for path in sockets] == ["closed"] * 3
        assert client.submit(pow, 2, 3).result() == 8
    finally:
        cluster.close()


def test_a_temporary_folder_with_a_long_path_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    folder = PrivateFolder()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert len(bytes(folder.path)) <= private_folder.MAX_PATH_BYTES
    other = PrivateFolder()
    assert folder.path.exists()  # its process is alive
    for one in (folder, other):
        one.remove()
        assert not one.path.exists()


def test_unencrypted_addresses_beyond_loopback_must_be_allowed() -> None:
    for address in ("tls://10.0.0.5:8786", "tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:1"):
        assert checked_address(address) == address
    for address in ("tcp://10.0.0.5:8786", "tcp://scheduler:8786", "tcp://0.0.0.0:8786", "tcp://[::]:8786"):
        with pytest.raises(InvalidParameter, match="--allow-insecure-dask"):
            checked_address(address)
        assert checked_address(address, allow_insecure=True) == address
