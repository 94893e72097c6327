"""Mixtures of datasets, `a:0.7,b:0.3`: how probable it is that the next image is drawn from each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from statsvc.errors import InvalidParameter

_FORM = "write datasets with their shares, as in a:0.7,b:0.3, or with versions, as in a@3:0.7,b@12:0.3"
_SHARE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_VERSION = re.compile(r"0*[1-9][0-9]{0,8}|[A-Za-z][A-Za-z0-9_.-]{0,99}")
_MOST = 100


@dataclass(frozen=True, slots=True)
class MixturePart:
    """A dataset of a mixture.

    number  version, or its tag, None for the current one
    share   probability that an image is drawn from it; the shares of a mixture add up to 1
    """

    dataset: str
    number: int | str | None
    share: float


def parse(text: str | None) -> tuple[MixturePart, ...] | None:
    """Return the parts of a mixture, or None for the name of one dataset (a name has no colon).

    Shares are divided by their sum. Raises `InvalidParameter` naming `dataset`.
    """
    if text is None or ":" not in text:
        return None
    items = text.split(",")
    if len(items) > _MOST:
        raise _invalid(f"{len(items)} datasets are too many: at most {_MOST}")
    parts = [_part(item.strip()) for item in items]
    if len(parts) == 1:
        raise _invalid(f"{text!r} mixes nothing: name one dataset without a share, or several with theirs")
    names = [part.dataset for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise _invalid(f"{name} is there twice: give it one share")
    whole = math.fsum(part.share for part in parts)
    return tuple(MixturePart(part.dataset, part.number, part.share / whole) for part in parts)


def text_of(parts: tuple[MixturePart, ...]) -> str:
    """Return the text that `parse` reads as these parts."""
    return ",".join(
        part.dataset + ("" if part.number is None else f"@{part.number}") + f":{part.share!r}"
        for part in parts
    )


def without_version(number: int | str | None) -> None:
    """Refuse a version beside a mixture. Raises `InvalidParameter`."""
    if number is not None:
        raise InvalidParameter(
            ("version", "a version is one dataset's: write it behind the name, as in a@3:0.7,b@12:0.3")
        )


def _part(text: str) -> MixturePart:
    name, colon, share = text.rpartition(":")
    if not colon or not name:
        raise _invalid(f"{text!r} has no share: {_FORM}")
    name, at, number = name.partition("@")
    if at and not _VERSION.fullmatch(number):
        raise _invalid(f"{text!r}: {number!r} is no number of a version, and no tag; {_FORM}")
    if not name or not _SHARE.fullmatch(share.strip()):
        raise _invalid(f"{text!r}: {_FORM}")
    value = float(share)
    if not 0 < value < 1e100:
        raise _invalid(f"{text!r}: a share is above 0; leave a dataset out that is not drawn from")
    version = int(number) if number.isdecimal() else number or None
    return MixturePart(name, version, value)


def _invalid(message: str) -> InvalidParameter:
    return InvalidParameter(("dataset", message))
