"""Ctrl-C while modules are imported."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_silently() -> Iterator[None]:
    """Let Ctrl-C end the process without a traceback in this block, which only imports modules.

    Only Python's default handler is replaced: a SIGINT that the parent process ignores stays ignored.
    """
    handler = signal.getsignal(signal.SIGINT)
    is_default = handler is signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
