"""Counting label maps in an object store beside plain concurrent reads of the same objects.

    python benchmarks/object_store.py [--objects 3000] [--size 512x256] [--latency 20] [--json FILE]

A process of its own answers S3's GET after a fixed latency, on loopback. The peer: a pool of threads with
as many requests in flight as statsvc has, which reads every object with obstore and does nothing with it.
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
from statsvc_workers.samples.object_store import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

URL = "s3://bench/labels"
DISTINCT = 32


def picture(seed: int, size: str) -> bytes:
    width, height = map(int, size.split("x"))
    data = io.BytesIO()
    Image.fromarray(street_scene(seed, (width, height))).save(data, "PNG")
    return data.getvalue()


def serve(pipe: Connection, bodies: list[bytes], latency: float) -> None:
    """Answer every GET with the object that the number in its path chooses, `latency` seconds later."""
    import asyncio

    answers = [
        b'HTTP/1.1 200 OK\r\nETag: "%d"\r\nLast-Modified: Mon, 05 Jan 2026 00:00:00 GMT\r\n'
        b"Content-Length: %d\r\n\r\n" % (number, len(body)) + body
        for number, body in enumerate(bodies)
    ]

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.waiting = transport, b""

        def data_received(self, data: bytes) -> None:
            self.waiting += data
            while b"\r\n\r\n" in self.waiting:
                head, _, self.waiting = self.waiting.partition(b"\r\n\r\n")
                number = int(head.split(b" ", 2)[1].rpartition(b"/")[2].partition(b".")[0])
                answer = answers[number % len(answers)]
                asyncio.get_running_loop().call_later(latency, self.transport.write, answer)

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=256)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def store(bodies: list[bytes], latency: float) -> Iterator[None]:
    """Run the server, and let this process's requests go there."""
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


def plain(names: list[str]) -> float:
    """Return objects a second of plain reads."""
    place = object_urls.open_prefix(URL)
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(lambda name: len(obstore.get(place, name).bytes()), names[:IN_FLIGHT]))
        start = time.perf_counter()
        list(pool.map(lambda name: len(obstore.get(place, name).bytes()), names))
        return len(names) / (time.perf_counter() - start)


def counted(names: list[str], expected: np.ndarray) -> float:
    """Return objects a second of one batch that reads and counts, whose counts are checked."""
    reading = CountOptions(URL, 1 << 28, "cpu")
    count_samples(reading, names[:IN_FLIGHT])
    start = time.perf_counter()
    rows = count_samples(reading, names)
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
    bodies = [picture(seed, options.size) for seed in range(DISTINCT)]
    names = [f"{number:06}.png" for number in range(options.objects)]
    own = [np.bincount(np.asarray(Image.open(io.BytesIO(body))).ravel(), minlength=256) for body in bodies]
    expected = np.sum([own[number % DISTINCT] for number in range(options.objects)], axis=0)
    with store(bodies, options.latency / 1000):
        pairs = [(plain(names), counted(names, expected)) for _ in range(3)]
    theirs, ours = (float(np.median(column)) for column in zip(*pairs, strict=True))
    what = (
        f"{options.objects} objects of {options.size}, {options.latency:g} ms, {IN_FLIGHT} in flight: reads"
    )
    row = Row(what, theirs, ours, "/s", ours / theirs, "≥ 0.9", ours >= 0.9 * theirs)
    report("label maps in an object store", [row], options.json)


if __name__ == "__main__":
    main()
