"""The parts of a file name: a variant such as `_labelIds` or `mask-1`, and the name of the image."""

from __future__ import annotations

import functools
import itertools
import re
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from statsvc_workers.formats import extension
from statsvc_workers.sources.roles import ROLE_OF, WHOLE, Role, role_of, words

if TYPE_CHECKING:
    from collections.abc import Iterable

SUFFIX = re.compile(
    r"[_\-.] ?(?:[A-Za-z](?:[A-Za-z0-9]*[A-Za-z])?|(?i:t[12]|rot\d+)|\d(?i:st|nd|rd|th)[A-Za-z]*"
    r"|\d+_?(?i:class(?:es)?))$"
)
"""A suffix of the stem, such as `_labelIds`, `_2ndHO` or `_3class`.

A final digit usually means a number, as in `0006R0_f00930`.
"""

WORD_SUFFIX = re.compile(r"[_\-.][A-Za-z]+$")

LAST_WORD = re.compile(r"[_\-. ][A-Za-z]+$")

NUMBERED = re.compile(r"([A-Za-z]+)([_\-. ]?)(\d{1,2})(?!\d)", re.IGNORECASE)
"""A word and its number: `mask-1`, `seg02`, `class3`."""

COUNTED = re.compile(r"(?<![A-Za-z\d])\d{1,3}[_-]?(?:class|classes|labels)(?![A-Za-z])", re.IGNORECASE)
"""A set of labels named by its number of classes: `2class`, `37labels`."""

PREFIX = re.compile(r"[A-Za-z]+(?=[\W_\d]|$)")
"""A prefix of the stem, such as `mask` in `mask_1` and `mask1`, or the whole stem."""

READERS = {"annotator", "annotators", "expert", "exp", "observer", "rater", "reader", "manual", "annotation"}
"""Words whose number names a person: `rater1`."""

NUMBERED_WORDS = {*READERS, "gt", "mask", "label", "seg", "segmentation", "class", "parts", "msk", "lbl"}
"""Words whose number can mean another label map of the same image."""

VIEWS = {"left", "right", "front", "rear", "back", "top", "bottom", "od", "os", "l", "r"}
"""Words that name the camera or the side of an image."""


class NamedFile(Struct, frozen=True):
    """A file and the parts of its name.

    folder     relative path of its folder, "" for the root
    stem       name without the extension
    extension  as it is written
    suffix     variant at the end of the stem, with its separator; "" without one
    """

    path: str
    folder: str
    stem: str
    extension: str
    suffix: str

    @property
    def group(self) -> str:
        """The extension in lower case, where .tiff equals .tif."""
        return {".tiff": ".tif"}.get(self.extension.lower(), self.extension.lower())

    @property
    def base(self) -> str:
        """The stem without the suffix."""
        return self.stem.removesuffix(self.suffix).rstrip()

    @property
    def prefix(self) -> str:
        """The word at the start of the stem, "" without one."""
        match = PREFIX.match(self.stem)
        return match.group() if match else ""


def named_file(path: str) -> NamedFile:
    """Return a file with the parts of its name."""
    folder, _, name = path.rpartition("/")
    file_extension = name[len(name) - len(extension(name)) :]
    stem = name[: -len(file_extension)]
    return NamedFile(path, folder, stem, file_extension, _suffix(stem))


def named_files(paths: Iterable[str]) -> list[NamedFile]:
    """Return files with the parts of their names; `x_field_ids` has the suffix `_field_ids` next to `x`."""
    files = [named_file(path) for path in paths]
    stems = {(file.folder, file.stem) for file in files}
    return [_next_to(file, stems) if WORD_SUFFIX.search(file.base) else file for file in files]


def _next_to(file: NamedFile, stems: set[tuple[str, str]]) -> NamedFile:
    base = file.base
    while file.suffix and (word := WORD_SUFFIX.search(base)):
        base = base[: word.start()]
        if (file.folder, base) in stems:
            return replace(file, suffix=file.stem[len(base) :])
    return file


def _suffix(stem: str) -> str:
    """Return the last word of a stem that is not the number of an image, and the words with a role before it.

    `P0_instance_color_RGB` has the suffix `_instance_color_RGB`. If the suffix is the whole stem, as in
    `_a.png`, it is the name of the image.
    """
    start = len(stem)
    if (match := _numbered_end(stem)) or (match := SUFFIX.search(stem)):
        start = match.start()
        while (before := LAST_WORD.search(stem, 0, start)) and role_of(before.group()) is not None:
            start = before.start()
    return stem[start:] if start > 0 else ""


def _numbered_end(stem: str) -> re.Match[str] | None:
    match = re.search(r"[_\-. ]([A-Za-z]+)[_\-. ]?\d{1,2}$", stem)
    return match if match and match.group(1).lower() in NUMBERED_WORDS else None


def numbered_variant(stem: str) -> tuple[str, str]:
    """Return (name of the image, variant) of a stem with a numbered word: `mask_2class_0` → mask_*_0, 2class.

    The variant is "" without such a word.
    """
    if match := COUNTED.search(stem):
        return f"{stem[: match.start()]}*{stem[match.end() :]}", match.group()
    for match in NUMBERED.finditer(stem):
        if match.group(1).lower() in NUMBERED_WORDS:
            return f"{stem[: match.start()]}*{stem[match.end() :]}", match.group()
    return stem, ""


@functools.lru_cache(maxsize=1 << 16)
def image_name(path: str, without: str = "") -> tuple[str, ...]:
    """Return the words of a path that name its image: `seq1/masks/x_left.png` → seq, 1, x, left.

    Words with a role are left out; of a word with a number, such as `label1`, the number remains.

    without  a folder name or a part of the stem that is left out, too
    """
    folder, _, name = path.rpartition("/")
    stem = name[: len(name) - len(extension(name))]
    parts = [part for part in folder.split("/") if part != without]
    if without:
        stem = stem.replace(without, "_", 1)
    return tuple(
        word for part in (*parts, stem) for token in re.split(r"[\W_]+", part) for word in _naming(token)
    )


@functools.lru_cache(maxsize=1 << 16)
def _naming(token: str) -> tuple[str, ...]:
    if re.sub(r"\d+$", "", token).lower() in WHOLE:
        return ()
    if role_of(token) is None:
        return words(token)
    number = re.fullmatch(r"[A-Za-z]+(\d+)", token)
    return (number.group(1),) if number and token.lower() not in ROLE_OF else ()


def name_role(file: NamedFile) -> Role | None:
    """Return the role that the suffix or the prefix of a file name gives it."""
    return role_of(file.suffix) or (role_of(file.prefix) if file.prefix else None)


class Stems:
    """What the stems of the files of a folder look like.

    words    most have no digit: they name parts of an image, such as `liver` and `spleen`
    counter  they are numbered from the start: `000000_10`, `000001_10`
    """

    def __init__(self, stems: Iterable[str]) -> None:
        names = list(stems)
        numbered = [stem for stem in names if re.search(r"\d", stem) and stem.lower() not in ROLE_OF]
        self.words = 2 * len(numbered) <= len(names)
        self.counter = not self.words and _is_counter(names)

    @property
    def distinctive(self) -> bool:
        """Whether equal stems in two folders are no coincidence."""
        return not self.words and not self.counter


def _is_counter(stems: list[str]) -> bool:
    """Whether the stems differ by numbers alone, which begin near zero and leave few gaps."""
    numbers = [re.findall(r"\d+", stem) for stem in stems]
    if len({re.sub(r"\d+", "#", stem) for stem in stems}) > 1:
        return False
    for column in zip(*numbers, strict=True):
        values = sorted({int(number) for number in column})
        if len(values) == 1:
            continue
        step = min(b - a for a, b in itertools.pairwise(values))
        if values[0] > 10 * step or values[-1] > 10 * step * len(values) + values[0]:
            return False
    return True
