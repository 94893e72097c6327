"""Time and memory of a stream's weights and of a sampler for a large dataset.

python benchmarks/streams.py [--samples 1000000] [--classes 19]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from statsvc.api.routes.sampling import page
from statsvc.dataset.configuration import Configuration
from statsvc.sampling.plan import SamplingRequest, plan_sampling
from statsvc.sampling.result import Sampling
from statsvc.sampling.weights import weights_response
from statsvc.store import home as homes
from statsvc.store import publication
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.catalog.records import NewVersion
from statsvc.store.versions.cached_table import CachedTable
from statsvc.store.versions.writer import VersionWriter, strings
from statsvc.weighting.parameters import WeightSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 2048 * 1024


def peak() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def timed(what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    print(f"{what:<58} {time.perf_counter() - begin:7.2f} s   peak {peak():5.0f} MB", flush=True)


def publish(folder: Path, samples: int, classes: int) -> CachedTable:
    """Publish a version of random counts in which rare classes occur in few images."""
    home = homes.resolve(str(folder))
    catalog = Catalog.open(home.database)
    dataset = catalog.create_dataset("large", "/labels/large", None, Configuration())
    uri = f"{dataset.uid}/benchmark"
    class_id = np.arange(classes, dtype=np.int64)
    writer = VersionWriter(home.store / uri, class_id, samples, {})
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, classes + 1)
    for start in range(0, samples, 2048):
        n = min(2048, samples - start)
        present = rng.random((n, classes)) < np.sqrt(popularity)
        present[:, 0] = True
        share = rng.random((n, classes)) * popularity * present
        counts = (SIZE * share / share.sum(axis=1, keepdims=True)).astype(np.int64)
        counts[:, 0] += SIZE - counts.sum(axis=1)
        numbers = np.arange(start, start + n, dtype=np.int64)
        columns = {
            "path": strings([f"train/city{k // 1000:04}/{k:08}_labelIds.png" for k in numbers]),
            "size": numbers,
            "mtime_ns": numbers,
            "ctime_ns": numbers,
            "etag": strings([""] * n),
            "content": numbers.astype(np.uint64),
            "height": np.full(n, 1024),
            "width": np.full(n, 2048),
            "pixels": counts.sum(axis=1),
            "mode": np.zeros(n, np.uint8),
            "status": np.zeros(n, np.uint8),
            "error": strings([""] * n),
        }
        writer.append(columns, counts)
    totals, digests = writer.finish()
    record = publication.publish(
        catalog,
        home.store,
        dataset,
        NewVersion(
            kind="scan",
            group_uri=uri,
            arrays_uri=uri,
            configuration=Configuration(num_classes=classes),
            reader="benchmark",
            digests=digests,
            samples=samples,
            failed=0,
            pixels=int(totals.pixels.sum()),
        ),
    )
    catalog.close()
    return CachedTable(publication.open_version(home.store, "large", record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=19)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with timed(f"write {options.samples} samples of {options.classes} classes"):
            table = publish(Path(folder), options.samples, options.classes)
        for spec in (
            {},
            {"sampler": "rare_class"},
            {"sampler": "rare_class", "method": "median_freq"},
            {"sampler": "repeat_factor"},
        ):
            with timed(f"weights {spec}"):
                weights_response(table, WeightSpec.from_params(spec))
        request = SamplingRequest.from_params("rare_class", {})
        with timed("sampling, first page of 50000"):
            plan = plan_sampling(table, request)
            first = page(table, plan, None, None, 50_000)
        with timed("sampling, all pages"):
            pages = [first]
            while pages[-1]["next"] is not None:
                pages.append(page(table, plan, None, pages[-1]["next"], 50_000))
        paths = [sample["path"] for body in pages for sample in body["samples"]]
        q = np.array([sample["probability"] for body in pages for sample in body["samples"]])
        del pages, first
        sampling = Sampling(plan.head, paths, q)
        from statsvc.samplers import RareClassSampler

        with timed("RareClassSampler, paths joined"):
            sampler = RareClassSampler([f"/data/labels/{path}" for path in paths], sampling)
        with timed("one epoch of draws"):
            drawn = sum(1 for _ in sampler)
        assert drawn == options.samples


if __name__ == "__main__":
    main()
