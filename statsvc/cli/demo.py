"""`statsvc demo`: synthetic label maps to try statsvc with."""

from __future__ import annotations

import re
from pathlib import Path

import click

from statsvc.cli._echo import echo
from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter

MAX_IMAGES = 1_000_000
"""Largest value of --images."""


@click.command(short_help="Create synthetic label maps to try statsvc.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--images",
    type=click.IntRange(1, MAX_IMAGES),
    metavar="N",
    default=240,
    help="Number of label maps to create.",
)
@click.option("--size", default="512x256", metavar="WIDTHxHEIGHT", help="Size of each label map in pixels.")
@click.option("--seed", type=click.IntRange(0), metavar="N", default=0, help="Seed of the random scenes.")
def demo(folder: Path, images: int, size: str, seed: int) -> None:
    """Create label maps of synthetic street scenes in FOLDER/train and FOLDER/val.

    The same seed gives the same label maps. The class names are written to FOLDER/classes.txt, for use
    with --class-names.
    """
    from statsvc.local.demo import CLASS_NAMES, make_demo

    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise InvalidParameter(("size", f"{size!r} is not a size. Use WIDTHxHEIGHT, for example 2048x1024."))
    make_demo(folder, images=images, size=(int(match[1]), int(match[2])), seed=seed)
    names = folder / "classes.txt"
    names.write_text("\n".join(CLASS_NAMES) + "\n", encoding="utf-8")
    echo(f"Created {plural(images, 'label map')} of {size} pixels in {folder}. Count them with:", err=True)
    echo(f"  statsvc scan {folder} --class-names {names}", err=True)
