"""Many trainers that start at once: herd.py URL CACHE PROCESSES TIMEOUT [FILE_SIZE]; prints what each got.

Each is a process of its own with its own client; a barrier lets all of them go in the same moment.
FILE_SIZE limits the bytes that a file may have, as a full disk does.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

from statsvc.client.client import Client
from support.rights import ordinary_rights

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier


def trainer(client: Client, file_size: int, barrier: Barrier, results: SimpleQueue[Any]) -> None:
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("statsvc.client").addHandler(handler)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    barrier.wait()
    try:
        got: Any = client.weights("street", method="inverse_freq").to_list()
    except Exception as error:  # noqa: BLE001  whatever it is, it is what the test looks at
        got = repr(error)
    results.put((got, warned))


def main() -> None:
    processes = int(sys.argv[3])
    client = Client(sys.argv[1], cache=sys.argv[2], timeout=float(sys.argv[4]))
    file_size = int(sys.argv[5]) if len(sys.argv) > 5 else resource.RLIM_INFINITY
    import httpx2  # noqa: F401  once, before the processes are forked

    import statsvc.weighting.class_weights  # noqa: F401

    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(processes), fork.SimpleQueue()
    given = (client, file_size, barrier, results)
    herd = [fork.Process(target=trainer, args=given) for _ in range(processes)]
    with ordinary_rights():
        for one in herd:
            one.start()
    got = [results.get() for _ in herd]
    for one in herd:
        one.join()
    print(json.dumps(got))


if __name__ == "__main__":
    main()
