"""How to convert label maps in formats that are not read."""

from __future__ import annotations

from pathlib import PurePath
from shlex import quote

_GDAL = "gdal_translate {file} {stem}.tif"
_ITK = (
    'python -c "import SimpleITK as s, sys; s.WriteImage(s.ReadImage(sys.argv[1]), sys.argv[2])" '
    "{file} {stem}.nii.gz"
)
_PILLOW = 'python -c "import sys, PIL.Image as i; i.open(sys.argv[1]).save(sys.argv[2])" {file} {stem}.png'

COMMANDS = {
    **dict.fromkeys((".vrt", ".ecw", ".hdr", ".bil", ".nc", ".grd"), _GDAL),
    **dict.fromkeys((".nhdr", ".mgz", ".gipl"), _ITK),
    **dict.fromkeys((".ppm", ".pcx", ".sgi", ".ras", ".xbm", ".dds"), _PILLOW),
    ".gpkg": "gdal_rasterize -a CLASS_COLUMN -tr 1 1 {file} {stem}.tif",
    ".shp": "gdal_rasterize -a CLASS_COLUMN -tr 1 1 {file} {stem}.tif",
    ".geojson": "gdal_rasterize -a CLASS_COLUMN -tr 1 1 {file} {stem}.tif",
}
"""Extension → command that converts a file."""

LOSSY = (".jpg", ".jpeg")


def advice(name: str) -> str:
    """Return what to do with a file of an unsupported format; the command is one line."""
    file = PurePath(name).name
    suffix = PurePath(name).suffix.lower()
    if suffix in LOSSY:
        return "JPEG is lossy, so it cannot store labels: export the label maps as PNG"
    command = COMMANDS.get(suffix)
    if command is None:
        return "convert it to PNG, TIFF, NPY or NIfTI"
    stem = file[: len(file) - len(suffix)]
    return f"convert it: {command.format(file=quote(file), stem=quote(stem))}"
