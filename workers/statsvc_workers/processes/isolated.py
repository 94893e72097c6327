"""Call a function in a child process: a file that crashes a library, or needs too much, costs only itself.

The child has a limit on memory and, for each call, on processor time. It is started by the first call and
kept for the next ones. Its results are unpickled with a list of allowed classes: a decoder that was taken
over by its file cannot run code in this process.
"""

from __future__ import annotations

import atexit
import io
import os
import pickle
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from statsvc.errors import SourceError, StatsvcError, UnreadableSample
from statsvc_workers.processes.parent_death import end_with_parent
from statsvc_workers.processes.processor_time import processor_seconds
from statsvc_workers.processes.stalls import BLOCKED, CHECKS, not_read_in, stall_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    P = ParamSpec("P")
    T = TypeVar("T")

CPU_SECONDS = 120
"""Processor time of one call; the annotations of COCO take 20 s."""

LEAST_MEMORY = 512 << 20
"""Memory of a child in bytes, where half of the machine's is less."""

KILLED_SECONDS = 5.0
"""How long a child that was killed may take to end."""

CHILDREN = 4
"""Most children, for calls from several threads."""

CLASSES = {
    ("builtins", "slice"),
    ("builtins", "set"),
    ("statsvc.classes.class_lists", "ClassList"),
    ("statsvc.errors", "SourceError"),
    ("statsvc.errors", "UnreadableSample"),
    ("statsvc_workers.containers.contents", "Contents"),
    ("statsvc_workers.formats.base", "Peek"),
    ("statsvc.dataset.grid", "Place"),
    ("statsvc_workers.samples.members", "Member"),
    ("statsvc_workers.samples.object_reader", "Unreachable"),
    ("statsvc_workers.samples.roots", "OutsideRoots"),
    ("statsvc_workers.sources.content", "Content"),
    ("statsvc_workers.sources.content", "Look"),
}
"""Modules and names of the classes that a result may contain, apart from text, numbers and collections.

None of them lets a pickle set its attributes, or those of an object that exists already: they would stay
changed for the files that follow.
"""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_LENGTH = struct.Struct("<Q")
_UNEXPECTED = "made its reader return an unexpected"
_PROGRAM = """
import sys
sys.path += {path!r}
from statsvc_workers.processes import isolated
isolated.main({fd}, {memory})
"""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Libraries reserve memory for each thread, which would count towards the limit."""


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of a function of a module, called in a child process.

    Raises what the function raises, and `UnreadableSample` where the child died or reached a limit.
    """
    child = _take()
    try:
        return child.call(function, args, kwargs)  # type: ignore[no-any-return]
    except BaseException as error:
        if not isinstance(error, StatsvcError) or isinstance(error, ChildDied):
            child.end()
        raise
    finally:
        _give_back(child)


class ChildDied(UnreadableSample):
    """The child died or ran out of memory while it read a file."""


_idle: list[_Child] = []
_lock = threading.Lock()
_places = threading.BoundedSemaphore(CHILDREN)
_starter = ThreadPoolExecutor(1, "statsvc-isolated")
"""The thread that starts the children: the kernel ends a child when the thread that started it ends."""


def _take() -> _Child:
    _places.acquire()
    try:
        while (child := _pop_idle()) is not None:
            if child.is_usable():
                return child
            child.end()
        return _starter.submit(_Child).result()
    except BaseException:
        _places.release()
        raise


def _pop_idle() -> _Child | None:
    with _lock:
        return _idle.pop() if _idle else None


def _give_back(child: _Child) -> None:
    if child.alive:
        with _lock:
            _idle.append(child)
    _places.release()


def close() -> None:
    """End the children that are not in use; the next call starts a new one."""
    with _lock:
        children = [*_idle]
        _idle.clear()
    for child in children:
        child.end()


def _start_again() -> None:
    """Forget the children, the threads and the locks of the process from which this one was forked."""
    global _lock, _places, _starter
    _idle.clear()
    _lock, _places = threading.Lock(), threading.BoundedSemaphore(CHILDREN)
    _starter = ThreadPoolExecutor(1, "statsvc-isolated")


atexit.register(close)
os.register_at_fork(after_in_child=_start_again)


class _Child:
    """A child process and the socket to it."""

    def __init__(self) -> None:
        self.alive = True
        self.environment = dict(os.environ)
        self._connection, theirs = socket.socketpair()
        packages = [str(Path(str(sys.modules[StatsvcError.__module__].__file__)).parents[1])]
        packages.append(str(Path(__file__).parents[2]))
        program = _PROGRAM.format(path=packages, fd=theirs.fileno(), memory=memory_limit())
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - a program of our own
                    [sys.executable, "-P", "-c", program],  # -P: import nothing from the current folder
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=self.environment | _ONE_THREAD,
                )
        except OSError as error:
            self._connection.close()
            raise SourceError(
                f"no process to list files could be started ({error.strerror}); check memory and the limits "
                "on processes (ulimit -u)"
            ) from error

    def is_usable(self) -> bool:
        """Whether the process waits for a call; the kernel may have ended it to free memory for others."""
        # The environment has credentials, for instance.
        return self.environment == os.environ and self._process.poll() is None

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        request = pickle.dumps((os.getpid(), CPU_SECONDS, function, args, kwargs))
        try:
            _send(self._connection, request)
            self._wait()
            answer = _receive(self._connection)
        except ChildDied:
            raise
        except (EOFError, OSError):
            raise ChildDied(self._reason()) from None
        failed, value = unpickled(answer)
        if failed == "memory":
            raise ChildDied(_out_of_memory())
        if failed:
            raise value
        return value

    def _wait(self) -> None:
        """Wait for an answer. Raises `ChildDied` if the process neither answers nor uses the processor."""
        interval = stall_timeout() / CHECKS
        blocked, used = 0.0, processor_seconds(self._process.pid)
        while not select.select([self._connection], [], [], interval)[0]:
            before, used = used, processor_seconds(self._process.pid)
            blocked = blocked + interval if used == before and used is not None else 0.0
            if blocked > BLOCKED * stall_timeout():
                raise ChildDied(not_read_in(blocked))

    def _reason(self) -> str:
        """Return why the child died, for the owner of the file."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.poll()
        if code == -signal.SIGXCPU:
            return (
                f"took more than {CPU_SECONDS} s of processor time to list; divide it, or check it with "
                "another program"
            )
        if code == -signal.SIGKILL:
            return _out_of_memory()
        signal_name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return f"crashed the library that lists it ({signal_name}); check the file with another program"

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.alive = False
        self._connection.close()
        self._process.kill()
        # A process that waits for a disk ends when the disk answers.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED_SECONDS)


def unpickled(answer: bytes) -> tuple[str, Any]:
    """Return what `_answer` pickled. Raises `ChildDied` for anything else."""
    try:
        failed, value = _Unpickler(io.BytesIO(answer)).load()
        if failed == "system":
            value = OSError(*value)
    except ChildDied:
        raise
    except Exception as error:
        raise ChildDied(f"{_UNEXPECTED} answer ({type(error).__name__}); do not use the file") from error
    if failed not in ("", "memory") and not isinstance(value, (StatsvcError, OSError)):
        raise ChildDied(f"{_UNEXPECTED} {type(value).__name__}; do not use the file")
    return failed, value


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in CLASSES:
            raise ChildDied(f"{_UNEXPECTED} {module}.{name}; do not use the file")
        return super().find_class(module, name)


def memory_limit() -> int:
    """Return the memory limit of a child in bytes: half of that of the machine or container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            total = min(total, int(Path(name).read_text()))
    return max(LEAST_MEMORY, total // 2)


def _out_of_memory() -> str:
    return (
        f"needs more than {memory_limit() >> 20} MiB of memory to list; divide it, or list it on a machine "
        "with more memory"
    )


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _receive(connection: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    if length > memory_limit():
        raise EOFError
    return _receive_exactly(connection, length)


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        block = connection.recv(min(length - len(data), 1 << 20))
        if not block:
            raise EOFError
        data += block
    return bytes(data)


def main(fd: int, memory: int) -> None:
    """Answer the calls of the parent until it closes the socket; use at most so many bytes of memory."""
    # Ctrl-C reaches the whole process group; the parent decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_this_process(memory)
    with socket.socket(fileno=fd) as connection, suppress(EOFError, ConnectionError):
        while True:
            parent, seconds, function, args, kwargs = pickle.loads(_receive(connection))  # noqa: S301 - of the parent
            end_with_parent(signal.SIGKILL, parent)
            _limit_processor_time(seconds)
            _send(connection, _answer(function, args, kwargs))


def _limit_this_process(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    # Where the whole machine has too little memory, the kernel ends this process first.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _limit_processor_time(seconds: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time()) + seconds + 1
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _answer(function: Callable[..., Any], args: Any, kwargs: Any) -> bytes:
    try:
        return pickle.dumps(("", function(*args, **kwargs)))
    except MemoryError:
        return pickle.dumps(("memory", None))
    except (StatsvcError, OSError) as error:
        if (type(error).__module__, type(error).__name__) in CLASSES:
            return pickle.dumps(("exception", error))
        if isinstance(error, StatsvcError):
            return pickle.dumps(("exception", SourceError(str(error))))
        return pickle.dumps(("system", (error.errno, error.strerror, error.filename)))
    except Exception as error:  # noqa: BLE001 - the message names the file
        text = " ".join(str(error).split())[:200]
        message = f"cannot be listed ({type(error).__name__}: {text}); check it with another program"
        return pickle.dumps(("exception", UnreadableSample(message)))
