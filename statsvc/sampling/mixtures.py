"""Mixtures of datasets, as in `a:0.7,b:0.3`: the share of each dataset in the drawn images."""

from __future__ import annotations

import math
import re

from msgspec import Struct

from statsvc.errors import Inapplicable, InvalidParameter

_FORM = "use dataset:share pairs, as in a:0.7,b:0.3, or with versions, as in a@3:0.7,b@12:0.3"
_SHARE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_VERSION = re.compile(r"0*[1-9][0-9]{0,8}|[A-Za-z][A-Za-z0-9_.-]{0,99}")
_MAX_DATASETS = 100


class MixturePart(Struct, frozen=True):
    """A dataset of a mixture.

    number  version number or tag; None for the current version
    share   probability that an image is drawn from this dataset; the shares of a mixture add up to 1
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
    if len(items) > _MAX_DATASETS:
        raise _invalid(
            f"a mixture of {len(items)} datasets is too large; at most {_MAX_DATASETS} are allowed"
        )
    parts = [_part(item.strip()) for item in items]
    if len(parts) == 1:
        raise _invalid(f"{text!r} names only one dataset; leave out its share, or add datasets with shares")
    names = [part.dataset for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise Inapplicable(("dataset", f"{name} occurs twice; use one share for each dataset"))
    total = math.fsum(part.share for part in parts)
    return tuple(MixturePart(part.dataset, part.number, part.share / total) for part in parts)


def text_of(parts: tuple[MixturePart, ...]) -> str:
    """Return the text form of a mixture, which `parse` reads."""
    return ",".join(
        part.dataset + ("" if part.number is None else f"@{part.number}") + f":{part.share!r}"
        for part in parts
    )


def without_version(number: int | str | None) -> None:
    """Raise `InvalidParameter` if a request for a mixture also has the parameter `version`."""
    if number is not None:
        raise Inapplicable(
            (
                "version",
                "a mixture has no version of its own; write versions after the names, as in a@3:0.7,b@12:0.3",
            )
        )


def _part(text: str) -> MixturePart:
    name, colon, share = text.rpartition(":")
    if not colon or not name:
        raise _invalid(f"{text!r} has no share; {_FORM}")
    name, at, number = name.partition("@")
    if at and not _VERSION.fullmatch(number):
        raise _invalid(f"{text!r}: {number!r} is neither a version number nor a tag; {_FORM}")
    if not name or not _SHARE.fullmatch(share.strip()):
        raise _invalid(f"{text!r} is not a dataset with a share; {_FORM}")
    value = float(share)
    if not 0 < value < 1e100:
        raise _invalid(
            f"{text!r}: the share is out of range; shares are above 0. Leave out datasets that are not used"
        )
    version = int(number) if number.isdecimal() else number or None
    return MixturePart(name, version, value)


def _invalid(message: str) -> InvalidParameter:
    return InvalidParameter(("dataset", message))
