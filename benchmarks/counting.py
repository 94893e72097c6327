"""Label maps to histograms on one core, beside what people do now: ratios of medians from one run.

    python benchmarks/counting.py [--size 2048x1024] [--images 6] [--repeats 9] [--json FILE]

Draws its own label maps with a fixed seed. PNG: Pillow and `np.bincount` against statsvc, from bytes in
memory. Arrays: `np.bincount` against statsvc, on label maps and on noise. What is compiled at first use is
compiled before the clock starts, and its time printed apart.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from statsvc.demo import make_demo
from workers.bincount import Counter
from workers.labelmaps import open_label_map

if TYPE_CHECKING:
    from collections.abc import Callable


def milliseconds(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def by_pillow(data: bytes) -> np.ndarray:
    return np.bincount(np.asarray(Image.open(io.BytesIO(data))).ravel(), minlength=256)


def by_statsvc(data: bytes) -> np.ndarray:
    label_map = open_label_map("x.png", io.BytesIO(data), 1 << 30)
    assert label_map.histogram is not None
    counts = np.zeros(256, np.int64)
    ids, pixels = label_map.histogram()
    counts[ids] = pixels
    return counts


def counted(array: np.ndarray) -> Counter:
    counter = Counter()
    counter.add(array)
    return counter


def stream_of(png: bytes) -> bytes:
    """Return the zlib stream of a PNG that Pillow wrote."""
    parts, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            parts.append(png[at + 8 : at + 8 + length])
        at += 12 + length
    return b"".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", default="2048x1024", metavar="WxH")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        make_demo(Path(folder), images=options.images, size=(width, height), seed=0)
        maps = [np.asarray(Image.open(file)) for file in sorted(Path(folder).rglob("*.png"))]

    def written(array: np.ndarray, mode: str) -> bytes:
        file = io.BytesIO()
        image = Image.fromarray(array)
        if mode == "palette":
            image = image.copy()
            image.putpalette(list(range(256)) * 3)
        image.save(file, "PNG")
        return file.getvalue()

    start = time.perf_counter()
    by_statsvc(written(maps[0], "grey"))
    first = time.perf_counter() - start
    rows: list[tuple[str, float, float]] = []
    for mode in ("grey", "palette"):
        files = [written(array, mode) for array in maps]
        for data in files:
            assert np.array_equal(by_pillow(data), by_statsvc(data))
        theirs = statistics.mean(milliseconds(lambda d=d: by_pillow(d), options.repeats) for d in files)
        ours = statistics.mean(milliseconds(lambda d=d: by_statsvc(d), options.repeats) for d in files)
        rows.append((f"PNG, {mode}: Pillow + np.bincount", theirs, ours))
    streams = [stream_of(data) for data in files]
    inflate = statistics.mean(milliseconds(lambda s=s: zlib.decompress(s), options.repeats) for s in streams)
    rows.append(("PNG, palette: zlib's inflate alone", inflate, ours))
    rng = np.random.default_rng(0)
    for kind in (np.uint8, np.uint16, np.int32):
        for what, array in (
            ("label map", maps[0].astype(kind)),
            ("noise", rng.integers(0, 256, (height, width)).astype(kind)),
        ):
            counted(array)
            theirs = milliseconds(lambda a=array: np.bincount(a.ravel()), options.repeats)
            ours = milliseconds(lambda a=array: counted(a), options.repeats)
            rows.append((f"{np.dtype(kind).name} {what}: np.bincount", theirs, ours))
    print(
        f"{options.size}, {options.images} label maps, medians of {options.repeats}; first use {first:.1f} s"
    )
    print(f"{'':42} theirs ms  statsvc ms  ratio")
    for name, theirs, ours in rows:
        print(f"{name:42} {theirs:9.2f}  {ours:10.2f}  {theirs / ours:5.1f}")
    if options.json is not None:
        found = [{"row": name, "theirs_ms": a, "statsvc_ms": b, "ratio": a / b} for name, a, b in rows]
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
