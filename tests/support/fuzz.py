"""Damage files of every format at random, list and count them, and tally what happened.

`make fuzz` runs it for a long time: `PYTHONPATH=tests python -m support.fuzz LISTED COUNTED [SEED]`, the
number of files of each format that are listed one by one, and of those that one scan counts. A damaged file
must be counted or named, and the others must be counted whatever is next to it.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import imagecodecs
import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import SimpleITK as sitk  # noqa: N813 - its documentation uses this name
import zarr
from PIL import Image

from statsvc.classes import class_lists, class_map_files
from statsvc.dataset.counting_rule import Counting
from statsvc.errors import StatsvcError
from statsvc.store import home as homes
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import open_version
from statsvc_workers.sources.content import header, inspect
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Source
from statsvc_workers.sources.split_lists import listed_splits
from support.commands import statsvc
from support.damage import npy, png, tiff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LABELS = np.random.default_rng(0).integers(0, 5, (12, 16)).astype(np.uint8)
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
"""Values that length fields are overwritten with."""

CORNER = "xllcorner 0\nyllcorner 0\ncellsize 1"
"""Where an ASCII grid lies."""

LISTED, COUNTED = 20, 8
"""Default number of damaged files of each format."""


@dataclass
class Tally:
    """What happened to the damaged files of one format.

    files    damaged files
    counted  those that were counted, or listed, all the same
    named    those that were reported with a reason
    lost     undamaged files that were not counted because of a damaged one
    """

    files: int = 0
    counted: int = 0
    named: int = 0
    lost: int = 0

    @property
    def unnamed(self) -> int:
        """Damaged files that were neither counted nor reported."""
        return self.files - self.counted - self.named


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return the content with one to three random changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        position = rng.randrange(max(1, len(changed)))
        kind = rng.choice(("truncate", "bits", "number", "number", "delete", "repeat", "zeros"))
        if kind == "truncate":
            del changed[position:]
        elif kind == "bits":
            for _ in range(rng.randint(1, 8)):
                if changed:
                    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        elif kind == "number":
            size = rng.choice((1, 2, 4, 8))
            number = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
            changed[position : position + size] = number
        elif kind == "delete":
            del changed[position : position + rng.randint(1, 64)]
        elif kind == "repeat":
            changed[position:position] = changed[position : position + rng.randint(1, 64)]
        else:
            changed[position : position + 16] = bytes(len(changed[position : position + 16]))
    return bytes(changed)


def containers() -> dict[str, bytes]:
    """Return a valid file of each container format, by extension."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("a.png", "b.png", "x" * 150 + ".png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(LABELS))
            archive.addfile(info, io.BytesIO(png(LABELS)))
    table = io.BytesIO()
    pq.write_table(pa.table({"label": pa.array([png(LABELS)] * 4, pa.binary()), "id": [1, 2, 3, 4]}), table)
    square = [1, 1, 9, 1, 9, 9, 1, 9]
    coco = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 16, "height": 12} for k in (1, 2)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "road"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square], "iscrowd": 0},
            {
                "id": 2,
                "image_id": 2,
                "category_id": 2,
                "segmentation": {"size": [12, 16], "counts": [10, 20, 162]},
                "iscrowd": 1,
            },
        ],
    }
    return {".tar": content.getvalue(), ".parquet": table.getvalue(), ".json": json.dumps(coco).encode()}


def arrays() -> dict[str, bytes]:
    """Return a valid file of each format of arrays, whose rows can be samples, by extension."""
    file = io.BytesIO()
    with h5py.File(file, "w") as archive:
        archive.create_dataset("labels", data=np.stack([LABELS] * 3), chunks=(1, 12, 16), compression="gzip")
    return {".h5": file.getvalue(), ".npy": npy(np.stack([LABELS] * 3))}


def label_maps() -> dict[str, bytes]:
    """Return a valid file of each format of label maps, by extension."""
    files = {
        ".png": png(LABELS),
        ".npy": npy(LABELS),
        ".tif": tiff(LABELS, compression="deflate", tile=(16, 16)),
    }
    for extension in (".bmp", ".gif", ".webp", ".pgm", ".tga"):
        file = io.BytesIO()
        options: dict[str, Any] = {"lossless": True} if extension == ".webp" else {}
        Image.fromarray(LABELS).save(file, {".pgm": "PPM"}.get(extension, extension[1:].upper()), **options)
        files[extension] = file.getvalue()
    archive = io.BytesIO()
    np.savez_compressed(archive, labels=LABELS)
    files[".npz"] = archive.getvalue()
    volume = nibabel.Nifti1Image(np.stack([LABELS] * 2), np.eye(4)).to_bytes()
    files |= {".nii": volume, ".nii.gz": gzip.compress(volume, mtime=0), ".h5": arrays()[".h5"]}
    variables = io.BytesIO()
    scipy.io.savemat(variables, {"labels": LABELS}, do_compression=True)
    grid = "\n".join([f"ncols 16\nnrows 12\n{CORNER}", *(" ".join(map(str, row)) for row in LABELS)])
    files |= {".mat": variables.getvalue(), ".asc": grid.encode(), "_lidarseg.bin": LABELS.tobytes()}
    files[".jp2"] = bytes(imagecodecs.jpeg2k_encode(LABELS, reversible=True, codecformat="jp2"))
    with tempfile.TemporaryDirectory() as folder:
        for extension in (".nrrd", ".mha"):
            path = Path(folder) / f"a{extension}"
            sitk.WriteImage(sitk.GetImageFromArray(np.stack([LABELS] * 2)), str(path), True)
            files[extension] = path.read_bytes()
    return files


def sidecars() -> dict[str, bytes]:
    """Return valid files that say something about the label maps next to them, by name."""
    return {
        "classes.txt": b"background\ncar\nroad\n",
        "_classes.csv": b"Pixel Value, Class\n0, background\n1, car\n",
        "class_dict.csv": b"name,r,g,b\nbackground,0,0,0\ncar,64,0,128\n",
        "labelmap.txt": b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:64,0,128::\n",
        "dataset.json": b'{"labels": {"background": 0, "car": 1}, "numTraining": 2}',
        "data.yaml": b"nc: 2\nnames: {0: car, 1: road}\n",
        "a.png.aux.xml": b"<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>a</Category>"
        b"<Category>b</Category></CategoryNames></PAMRasterBand></PAMDataset>",
        "splits_final.json": b'[{"train": ["a"], "val": ["b"]}]',
        "map.yaml": b"map: {7: 0, 8: 1, 9: ignore}\nnames: [car, road]\n",
        "map.csv": b"id,train_id,name\n7,0,car\n8,1,road\n",
    }


def fuzz_listing(
    folder: Path, extension: str, content: bytes, rng: random.Random, count: int, rows: str
) -> Tally:
    """List a good and a damaged file of one format again and again."""
    tally = Tally()
    folder.mkdir(parents=True)
    good, bad = folder / f"good{extension}", folder / f"bad{extension}"
    good.write_bytes(content)
    counting = Counting(rows=rows)
    expected = set(list_samples(Source(str(folder), f"*{extension}"), counting).path)
    for _ in range(count):
        bad.write_bytes(damaged(rng, content))
        header(str(folder), bad.name)
        inspect(str(folder), bad.name)
        listing = list_samples(Source(str(folder), f"*{extension}"), counting)
        tally.files += 1
        if any(path.startswith("bad") for path in listing.unreadable):
            tally.named += 1
        elif any(path.startswith("bad") or path not in expected for path in listing.path):
            tally.counted += 1
        elif extension == ".json":
            tally.counted += 1  # the images of an annotation file are named without the file
        tally.lost += len(expected - set(listing.path))
    return tally


def fuzz_zarr(folder: Path, rng: random.Random, count: int) -> Tally:
    """List a good array and one with damaged metadata again and again."""
    tally = Tally()
    for name in ("good.zarr", "bad.zarr"):
        array = zarr.create_array(folder / name, shape=(3, 12, 16), chunks=(1, 12, 16), dtype="u1")
        array[:] = np.stack([LABELS] * 3)
    metadata = folder / "bad.zarr" / "zarr.json"
    content = metadata.read_bytes()
    for _ in range(count):
        metadata.write_bytes(damaged(rng, content))
        listing = list_samples(Source(str(folder), "*.zarr"), Counting(rows="index"))
        tally.files += 1
        tally.named += "bad.zarr" in listing.unreadable
        tally.counted += any(path.startswith("bad.zarr/") for path in listing.path)
        tally.lost += sum(f"good.zarr/{k}" not in listing.path for k in range(3))
    return tally


def fuzz_counting(folder: Path, extension: str, content: bytes, rng: random.Random, count: int) -> Tally:
    """Scan a folder of damaged files and one good file with the command line."""
    tally = Tally()
    source = folder / "source"
    source.mkdir(parents=True)
    (source / f"good{extension}").write_bytes(content)
    for k in range(count):
        (source / f"bad{k:04}{extension}").write_bytes(damaged(rng, content))
    home = folder / "home"
    options = ("--pattern", f"*{extension}", "--name", "x", "--home", home, "--workers", 1)
    statsvc("scan", source, *options, "--rule", "value", code=None)
    catalog = Catalog.open(homes.resolve(str(home)).database)
    try:
        dataset = catalog.dataset("x")
        version = open_version(homes.resolve(str(home)).store, "x", catalog.version(dataset))
        status = dict(zip(version.array("path").tolist(), version.array("status").tolist(), strict=True))
    finally:
        catalog.close()
    for k in range(count):
        states = [state for path, state in status.items() if path.startswith(f"bad{k:04}")]
        tally.files += 1
        tally.named += 1 in states
        tally.counted += bool(states) and 1 not in states
    tally.lost = not any(path.startswith("good") and not state for path, state in status.items())
    return tally


def fuzz_sidecar(folder: Path, name: str, content: bytes, rng: random.Random, count: int) -> Tally:
    """Read a damaged sidecar file again and again; it is used, or its reader says why not."""
    tally = Tally()
    folder.mkdir(parents=True)
    file = folder / name

    def read() -> None:
        if name.startswith("map."):
            class_map_files.load(file)
        elif name.startswith("splits"):
            listed_splits(str(folder), [name], ["a.png", "b.png"])
        else:
            class_lists.parse(name, file.read_bytes())

    for _ in range(count):
        file.write_bytes(damaged(rng, content))
        tally.files += 1
        try:
            read()
        except (StatsvcError, ValueError) as error:
            tally.named += bool(str(error))
        else:
            tally.counted += 1
    return tally


def fuzz(
    folder: Path, listed: int = LISTED, counted: int = COUNTED, seed: int = 0
) -> Iterator[tuple[str, Tally]]:
    """Yield (what was done, tally) for every format.

    listed   damaged files that are listed one by one
    counted  damaged files that one scan counts; 0 for no scan
    """
    runs: dict[str, Callable[..., Tally]] = {}
    for kind, files, rows in (
        ("list", containers(), "array"),
        ("rows", arrays(), "index"),
        ("inspect", label_maps(), "array"),
    ):
        for extension, content in files.items():
            runs[f"{kind} {extension}"] = partial(
                fuzz_listing, extension=extension, content=content, count=listed, rows=rows
            )
    runs["rows .zarr"] = partial(fuzz_zarr, count=listed)
    for name, content in sidecars().items():
        runs[f"read {name}"] = partial(fuzz_sidecar, name=name, content=content, count=listed * 5)
    if counted:
        for extension, content in {**containers(), **label_maps()}.items():
            runs[f"count {extension}"] = partial(
                fuzz_counting, extension=extension, content=content, count=counted
            )
    for number, (name, run) in enumerate(runs.items()):
        yield name, run(folder / str(number), rng=random.Random(f"{seed} {name}"))


def main(listed: int = LISTED, counted: int = COUNTED, seed: int = 0) -> None:
    """Run and print a table."""
    print(
        "| what | damaged | counted all the same | named | unnamed | others lost |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, tally in fuzz(Path(folder), listed, counted, seed):
            row = (name, tally.files, tally.counted, tally.named, tally.unnamed, int(tally.lost))
            print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
