"""Counting label maps in an object store, compared with plain concurrent reads of the same objects.

    python benchmarks/object_store.py [--objects 3000] [--size 512x256] [--latency 20] [--json FILE]

A separate process on loopback responds to GET requests of S3 after a fixed latency. The peer is a thread pool
that reads every object with obstore and discards it, with as many requests in flight as statsvc.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore
from measuring import Row, report
from PIL import Image

from statsvc.common import object_urls
from statsvc.local.demo import street_scene
from statsvc_workers.cluster.tasks import CountOptions, count_samples
from statsvc_workers.samples.object_reader import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

URL = "s3://bench/labels"
DISTINCT = 32


def label_map_png(seed: int, size: str) -> bytes:
    width, height = map(int, size.split("x"))
    data = io.BytesIO()
    Image.fromarray(street_scene(seed, (width, height))).save(data, "PNG")
    return data.getvalue()


def serve(pipe: Connection, bodies: list[bytes], latency: float) -> None:
    """Respond to every GET request after `latency` seconds with the object whose number is in the path."""
    import asyncio

    responses = [
        b'HTTP/1.1 200 OK\r\nETag: "%d"\r\nLast-Modified: Mon, 05 Jan 2026 00:00:00 GMT\r\n'
        b"Content-Length: %d\r\n\r\n" % (number, len(body)) + body
        for number, body in enumerate(bodies)
    ]

    class Responder(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.received = transport, b""

        def data_received(self, data: bytes) -> None:
            self.received += data
            while b"\r\n\r\n" in self.received:
                head, _, self.received = self.received.partition(b"\r\n\r\n")
                number = int(head.split(b" ", 2)[1].rpartition(b"/")[2].partition(b".")[0])
                response = responses[number % len(responses)]
                asyncio.get_running_loop().call_later(latency, self.transport.write, response)

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0, backlog=256)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def store(bodies: list[bytes], latency: float) -> Iterator[None]:
    """Run the server, and set the environment variables with which S3 clients use it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, bodies, latency))
    process.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
    }
    try:
        yield
    finally:
        process.kill()
        process.join()


def read_only(names: list[str]) -> float:
    """Return the objects per second of plain reads."""
    prefix = object_urls.open_prefix(URL)
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(lambda name: len(obstore.get(prefix, name).bytes()), names[:IN_FLIGHT]))
        start = time.perf_counter()
        list(pool.map(lambda name: len(obstore.get(prefix, name).bytes()), names))
        return len(names) / (time.perf_counter() - start)


def read_and_count(names: list[str], expected: np.ndarray) -> float:
    """Return the objects per second of one batch that is read and counted. Checks the counts."""
    options = CountOptions(URL, 1 << 28, "cpu")
    count_samples(options, names[:IN_FLIGHT])
    start = time.perf_counter()
    rows = count_samples(options, names)
    seconds = time.perf_counter() - start
    assert not any(rows.error), rows.error
    assert np.array_equal(np.bincount(rows.ids, rows.counts, len(expected)), expected)
    return len(names) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--objects", type=int, default=3000)
    parser.add_argument("--size", default="512x256", metavar="WxH")
    parser.add_argument("--latency", type=float, default=20, metavar="MS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    bodies = [label_map_png(seed, options.size) for seed in range(DISTINCT)]
    names = [f"{number:06}.png" for number in range(options.objects)]
    histograms = [
        np.bincount(np.asarray(Image.open(io.BytesIO(body))).ravel(), minlength=256) for body in bodies
    ]
    expected = np.sum([histograms[number % DISTINCT] for number in range(options.objects)], axis=0)
    with store(bodies, options.latency / 1000):
        pairs = [(read_only(names), read_and_count(names, expected)) for _ in range(3)]
    theirs, ours = (float(np.median(column)) for column in zip(*pairs, strict=True))
    name = (
        f"{options.objects} objects of {options.size}, {options.latency:g} ms, {IN_FLIGHT} in flight: reads"
    )
    row = Row(name, theirs, ours, "/s", ours / theirs, "≥ 0.9", ours >= 0.9 * theirs)
    report("label maps in an object store", [row], options.json)


if __name__ == "__main__":
    main()
