"""A folder in which reading some files never returns, as on a network share whose server is away.

A FUSE file system that needs only the kernel, and the right to mount: a copy of a folder without subfolders,
in which reads of files with `HANGING` in their name get no answer. It runs in a process of its own:
`PYTHONPATH=tests python -m support.hanging_folder FOLDER MOUNT_POINT`. The protocol is that of
`include/uapi/linux/fuse.h`, version 7.31.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HANGING = "hanging"


class Operation(enum.IntEnum):
    """Operations that the kernel requests, as far as they are answered or must not be."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    BATCH_FORGET = 42


WITHOUT_ANSWER = (Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT)

ROOT = 1
"""Number of the folder; those of its files follow."""

VALID_SECONDS = 3600
BUFFER_BYTES = 1 << 17
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def can_mount() -> bool:
    """Whether this process may mount a FUSE file system."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


@contextlib.contextmanager
def hanging_folder(folder: Path, mount_point: Path) -> Iterator[Path]:
    """Mount a copy of `folder` at the new folder `mount_point`, and yield it.

    At the end, the reads that hang fail.
    """
    mount_point.mkdir()
    command = [sys.executable, "-m", "support.hanging_folder", str(folder), str(mount_point)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"mounted\n"
        yield mount_point
    finally:
        _libc.umount2(bytes(mount_point), MNT_DETACH)
        server.kill()  # which closes the connection to the kernel
        server.communicate()


def _mount(device: int, mount_point: str) -> None:
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other"
    if _libc.mount(b"hanging", mount_point.encode(), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mount_point)


class _Server:
    """Answers the kernel's requests. The number of the folder is `ROOT`; those of its files follow."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.iterdir())
        self._paths = [folder, *self._files]

    def serve(self, device: int) -> None:
        while True:
            request = os.read(device, BUFFER_BYTES)
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation in WITHOUT_ANSWER:
                continue
            error = 0
            try:
                answer = self._answer(operation, node, request[40:])
            except OSError as failure:
                answer, error = b"", -(failure.errno or errno.EIO)
            if answer is not None:
                os.write(device, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)

    def _answer(self, operation: int, node: int, body: bytes) -> bytes | None:
        """Return the answer to a request; None for no answer."""
        match operation:
            case Operation.INIT:
                # Version, bytes read ahead, no flags, requests in the background, bytes of a write, and the
                # precision of times in nanoseconds.
                return struct.pack("<IIIIHHIIHHI28x", 7, 31, BUFFER_BYTES, 0, 12, 9, 4096, 1, 0, 0, 0)
            case Operation.LOOKUP:
                found = self._find(body.rstrip(b"\0").decode())
                head = struct.pack("<QQQQII", found, 0, VALID_SECONDS, VALID_SECONDS, 0, 0)
                return head + self._status(found)
            case Operation.GETATTR:
                return struct.pack("<QII", VALID_SECONDS, 0, 0) + self._status(node)
            case Operation.OPEN | Operation.OPENDIR:
                return struct.pack("<QII", 0, 0, 0)
            case Operation.READ:
                return self._read(self._paths[node - ROOT], *struct.unpack_from("<QQI", body)[1:])
            case Operation.READDIR:
                return self._entries(*struct.unpack_from("<QQI", body)[1:])
            case Operation.RELEASE | Operation.RELEASEDIR | Operation.FLUSH:
                return b""
            case Operation.STATFS:
                return bytes(80)
        raise OSError(errno.ENOSYS, operation)

    def _find(self, name: str) -> int:
        for number, file in enumerate(self._files, ROOT + 1):
            if file.name == name:
                return number
        raise FileNotFoundError(errno.ENOENT, name)

    def _read(self, file: Path, offset: int, size: int) -> bytes | None:
        return None if HANGING in file.name else file.read_bytes()[offset : offset + size]

    def _entries(self, offset: int, size: int) -> bytes:
        entries = b""
        for number, file in enumerate(self._files[offset:], offset + 1):
            name = file.name.encode()
            entry = struct.pack("<QQII", ROOT + number, number, len(name), 0) + name
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries

    def _status(self, node: int) -> bytes:
        status = self._paths[node - ROOT].stat()
        times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
        seconds, parts = zip(*(divmod(value, 10**9) for value in times), strict=True)
        owner = (status.st_mode, status.st_nlink, status.st_uid, status.st_gid, 0, 4096, 0)
        return struct.pack("<QQQQQQIIIIIIIIII", node, status.st_size, 0, *seconds, *parts, *owner)


def main(folder: str, mount_point: str) -> None:
    """Mount and serve until the file system is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    server = _Server(Path(folder))
    _mount(device, mount_point)
    print("mounted", flush=True)
    with contextlib.suppress(OSError):
        server.serve(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
