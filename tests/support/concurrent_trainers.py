"""Script: trainers that start together.

Usage: concurrent_trainers.py URL CACHE PROCESSES TIMEOUT [FILE_SIZE].

Each trainer is a separate process with a client. A barrier makes all of them send the request together. The
script prints the weights and the warnings of each process as JSON. FILE_SIZE limits the size of files in
bytes, so that writes fail as on a full disk.
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
from support.permissions import without_root_privileges

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier


def trainer(client: Client, file_size: int, barrier: Barrier, results: SimpleQueue[Any]) -> None:
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("statsvc.client").addHandler(handler)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    barrier.wait()
    try:
        weights: Any = client.weights("street", method="inverse_freq").to_list()
    except Exception as error:  # noqa: BLE001  the test compares the error, whatever it is
        weights = repr(error)
    results.put((weights, warnings))


def main() -> None:
    processes = int(sys.argv[3])
    client = Client(sys.argv[1], cache=sys.argv[2], timeout=float(sys.argv[4]))
    file_size = int(sys.argv[5]) if len(sys.argv) > 5 else resource.RLIM_INFINITY
    import httpx2  # noqa: F401  import once, before the processes are forked

    import statsvc.weighting.class_weights  # noqa: F401

    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(processes), fork.SimpleQueue()
    arguments = (client, file_size, barrier, results)
    trainers = [fork.Process(target=trainer, args=arguments) for _ in range(processes)]
    with without_root_privileges():
        for process in trainers:
            process.start()
    outcomes = [results.get() for _ in trainers]
    for process in trainers:
        process.join()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
