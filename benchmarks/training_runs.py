"""The runs of benchmarks/training.py: their variants and settings, and the file that stores them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "docs" / "data" / "training.json"

NAMES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip

SETTINGS: dict[str, Any] = {"epochs": 6, "images_per_step": 4, "crop": [160, 160], "crops_per_step": 16}
"""Settings of all runs. An epoch has as many steps with crops as with whole images."""

LR = 0.01
"""Chosen for unweighted cross-entropy among `TUNE`, with a seed that no result uses."""


class Variant(NamedTuple):
    """Differences between the runs of a seed.

    `seen` is "images" or "crops"; `sampler` None, "rare_class" or "patches"; `crop_weights` says whether the
    weights are those of the crops instead of whole images.
    """

    method: str
    ce: float
    dice: float
    strength: float = 1.0
    sampler: str | None = None
    seen: str = "images"
    crop_weights: bool = False
    lr: float = LR


CE = Variant("uniform", 1.0, 0.0)
WEIGHTED = CE._replace(method="sqrt_inv_freq")
WHOLE = {
    "CE": CE,
    "weighted CE": WEIGHTED,
    "Dice": CE._replace(ce=0.0, dice=1.0),
    "CE + Dice": CE._replace(ce=0.6, dice=0.4),
    "weighted CE + Dice": WEIGHTED._replace(ce=0.6, dice=0.4),
    "CE with rare-class sampler": CE._replace(sampler="rare_class"),
    "weighted CE at strength ½": WEIGHTED._replace(strength=0.5),
}
CROPS = {
    "CE": CE._replace(seen="crops"),
    "weights of images": WEIGHTED._replace(seen="crops"),
    "weights of crops": WEIGHTED._replace(seen="crops", crop_weights=True),
    "rare-class sampler": CE._replace(seen="crops", sampler="rare_class"),
    "patch sampler": CE._replace(seen="crops", sampler="patches"),
}
TUNE = {f"{lr:g}": CE._replace(lr=lr) for lr in (0.003, 0.01, 0.03)}
TUNE_SEED = 100
GROUPS = {"tune": TUNE, "whole": WHOLE, "crops": CROPS}


def read(file: Path = RUNS, settings: dict[str, Any] = SETTINGS) -> dict[str, Any]:
    """Return the content of the file of runs; without runs if the file does not exist."""
    if not file.exists():
        return {"settings": settings, "classes": [], "runs": []}
    data: dict[str, Any] = json.loads(file.read_text())
    if data["settings"] != settings:
        raise SystemExit(
            f"{file} was created with {data['settings']}, not {settings}. Delete the file to start over."
        )
    return data


def write(data: dict[str, Any], file: Path = RUNS) -> None:
    """Write the file of runs, with one line for each class and each run."""
    file.parent.mkdir(exist_ok=True)
    classes, runs = (
        ",\n".join("  " + json.dumps(line) for line in data[name]) for name in ("classes", "runs")
    )
    head = json.dumps(data["settings"])
    text = f'{{"settings": {head},\n "classes": [\n{classes}\n ],\n "runs": [\n{runs}\n ]}}\n'
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(text)
    temporary.replace(file)


def key(line: dict[str, Any]) -> tuple[Variant, int]:
    """Return the variant and the seed of a stored run."""
    return Variant(*(line[name] for name in Variant._fields)), line["seed"]


def sort_key(line: dict[str, Any]) -> str:
    """Return a text by which the stored runs are sorted."""
    variant, seed = key(line)
    return str((variant.lr, variant.seen, variant, seed))
