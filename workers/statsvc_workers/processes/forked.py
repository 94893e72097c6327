"""Processes that are forked in a few milliseconds, from a template without threads.

Threads in which Python code and loops alternate wait for each other. Processes do not, but starting an
interpreter with what counting needs takes 0.4 s of CPU time. A process with threads must not fork, because a
lock that another thread holds would stay locked in the child. So the template is forked before the threads of
a job start, and forks further processes whenever they are needed.

The kernel ends the template with the process that created it, and the other processes with the template.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn

from statsvc_workers.processes.parent_death import end_with_parent
from statsvc_workers.processes.processor_time import processor_seconds
from statsvc_workers.processes.stalls import CHECKS, STALL_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_REQUEST = 1 << 16
"""Longest request in bytes; a path has at most 4096."""

KILLED_SECONDS = 5.0
"""How long `close` waits for a template that was killed: one that waits for a disk ends when that answers."""

_PREPARE, _FORK, _KILL = b"p", b"f", b"k"


class Forked(Connection):
    """The connection to a forked process.

    pid      its process id; that of the template until the process has answered
    started  whether it has answered
    """

    pid: int
    started: bool = False


class Template:
    """A process that waits to be forked; where forking is unsafe, there is none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._pid = 0
        if not _may_fork():
            return
        # Otherwise a collection writes to all objects, and so copies their memory, in every process.
        gc.freeze()
        parent = os.getpid()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The child inherits the blocked signal, and ignores it before anything else.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._pid = os.fork()
        except OSError:
            control.close()
        else:
            if self._pid == 0:
                _run(_serve, parent, theirs)
            self._control = control
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def available(self) -> bool:
        """Whether processes can be forked; the template may have died in the meantime."""
        return self._control is not None

    def prepare(self, function: Callable[..., object], *args: Any) -> None:
        """Let the template call a function of a module, to load what its processes need; does not wait."""
        with suppress(OSError):  # `fork` reports it
            self._send(_PREPARE + pickle.dumps((function, args)))

    def fork(self) -> Forked:
        """Fork a process that answers `call`, and return the connection to it.

        Raises `OSError` if the template has died.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._send(_FORK, theirs.fileno())
            forked = Forked(ours.detach())
            forked.pid = self._pid
            return forked

    def kill(self) -> None:
        """End the processes that were forked, whatever they are doing; does not wait for that."""
        with suppress(OSError):
            self._send(_KILL)

    def end(self) -> None:
        """End the template, whatever it is doing, and by that its processes; does not wait for that."""
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End the template, and wait for its end, at most `KILLED_SECONDS`."""
        self.end()
        end = time.monotonic() + KILLED_SECONDS
        while self._pid and time.monotonic() < end:
            if os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                time.sleep(0.001)
            else:
                self._pid = 0

    def _send(self, request: bytes, *descriptors: int) -> None:
        with self._lock:
            if self._control is None:
                raise BrokenPipeError
            socket.send_fds(self._control, [request], descriptors)


def call(connection: Forked, function: Callable[..., Any], *args: Any, timeout: float = STALL_TIMEOUT) -> Any:
    """Return the result of a function of a module, called in a forked process.

    timeout  stall timeout in seconds

    Raises `EOFError` or `OSError` if the process ends before it returns, also by an exception, and if it does
    not use the processor for a stall timeout.
    """
    connection.send((function, args))
    if not connection.started:
        _wait(connection, timeout)  # for the template, which may be loading modules
        connection.pid, connection.started = connection.recv(), True
    _wait(connection, timeout)
    return connection.recv()


def _wait(connection: Forked, timeout: float) -> None:
    interval = timeout / CHECKS
    silent, used = 0.0, processor_seconds(connection.pid)
    while not connection.poll(interval):
        before, used = used, processor_seconds(connection.pid)
        silent = silent + interval if used == before else 0.0
        if silent > timeout:
            raise TimeoutError(f"the process {connection.pid} gave no sign of life for {silent:.0f} s")


def _may_fork() -> bool:
    """Whether this process has one thread. Elsewhere than on Linux, system libraries may have others."""
    return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208


def _run(function: Callable[..., None], parent: int, *args: Any) -> NoReturn:
    """Call a function in a process that was just forked, and end the process without cleaning up."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Ctrl-C reaches the whole process group; the first process decides what happens.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent(signal.SIGKILL, parent)
        function(*args)
        status = 0
    finally:
        os._exit(status)


def _serve(control: socket.socket) -> None:
    """Fork processes on request, until the other end of the socket is closed."""
    # Files and connections of the first process, which would stay open when it closes them. Not a range up to
    # the limit, which may be a billion, and which some builds of Python close one by one.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) > 2 and int(name) != control.fileno():
            os.closerange(int(name), int(name) + 1)  # ignores that the folder itself is closed already
    children: list[int] = []
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST, 1)
        children = [child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)]
        if message.startswith(_PREPARE):
            function, args = pickle.loads(message[len(_PREPARE) :])  # noqa: S301 - of the parent
            function(*args)
            continue
        if message == _FORK:
            if not _may_fork():
                return
            this, [descriptor] = os.getpid(), descriptors
            if (child := os.fork()) == 0:
                control.close()
                _run(_answer, this, descriptor)
            os.close(descriptor)
            children.append(child)
            continue
        if message != _KILL:
            return
        for child in children:  # they are waited for later: one that waits for a disk does not end now
            os.kill(child, signal.SIGKILL)


def _answer(descriptor: int) -> None:
    """Answer calls until the other end of the connection is closed."""
    with Connection(descriptor) as connection, suppress(EOFError):
        connection.send(os.getpid())
        while True:
            function, args = connection.recv()
            connection.send(function(*args))
