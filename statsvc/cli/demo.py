"""`statsvc demo`: label maps to try statsvc on."""

from __future__ import annotations

import re
from pathlib import Path

import click

from statsvc.errors import InvalidParameter


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--images", type=click.IntRange(1, 1_000_000), default=240, show_default=True)
@click.option("--size", default="512x256", show_default=True, metavar="WxH")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def demo(folder: Path, images: int, size: str, seed: int) -> None:
    """Draw label maps of synthetic street scenes into FOLDER, with train and val folders to scan.

    The same seed draws the same label maps. Class names are written to FOLDER/classes.txt, for
    --class-names.
    """
    from statsvc.local.demo import CLASS_NAMES, make_demo

    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise InvalidParameter(("size", f"{size!r}: write WIDTHxHEIGHT, for instance 2048x1024"))
    make_demo(folder, images=images, size=(int(match[1]), int(match[2])), seed=seed)
    (folder / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n", encoding="utf-8")
    click.echo(f"{images} label maps of {size} in {folder}; count them with:", err=True)
    click.echo(f"  statsvc scan {folder} --class-names {folder / 'classes.txt'}", err=True)
