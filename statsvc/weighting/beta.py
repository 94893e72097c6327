"""β of the effective number of samples, kept as the exact complement 1 − β."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.weighting.value_types import NUMBER, ValueType, parse_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORM = "expected a number in [0, 1), 1-x, or auto"
_MAX_DIGITS = 400
_SMALLEST_COMPLEMENT = 1e-300
# Below this complement no float below 1 is near enough to β to be worth a try.
_SMALLEST_AS_FLOAT = 1e-20


class Beta(Struct, frozen=True):
    """β in [0, 1). A float cannot hold a β such as 1 − 1e-20, but it can hold 1 − β.

    complement  1 − β, in (0, 1]; None for "auto", 1 − 1/median of the counts
    """

    complement: float | None

    @classmethod
    def parse(cls, value: Any) -> Beta:
        """Return β from a number, "1-x", "auto", or a `Beta`.

        A float is the decimal number that it prints as: 0.9999 and "1-1e-4" are equal.
        Raises `ValueError`.
        """
        if isinstance(value, Beta):
            return value
        if value == "auto":
            return cls(None)
        return cls(_complement(value if isinstance(value, str) else repr(parse_number(value))))

    def complement_for(self, counts: NDArray[np.float64]) -> float:
        """Return 1 − β for the counts of the present classes, float64 [classes]."""
        return 1.0 / float(np.median(counts)) if self.complement is None else self.complement

    def to_json(self) -> float | str:
        """Return the float nearest to β, or "1-x" where that float would lose digits of 1 − β; or "auto"."""
        return "auto" if self.complement is None else _json_form(self.complement)

    def __str__(self) -> str:
        return str(self.to_json())


@lru_cache(maxsize=256)
def _json_form(complement: float) -> float | str:
    from decimal import Decimal, localcontext

    if complement > _SMALLEST_AS_FLOAT:
        with localcontext() as context:
            context.prec = 60
            nearest = float(1 - Decimal(repr(complement)))
        if nearest < 1 and _complement(repr(nearest)) == complement:
            return nearest
    return f"1-{complement!r}"


def _complement(text: str) -> float:
    from decimal import Decimal, localcontext

    if text.startswith("1-") and NUMBER.fullmatch(text[2:]):
        complement = float(Decimal(text[2:]))
    elif NUMBER.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise ValueError(f"beta has {len(text)} characters; at most {_MAX_DIGITS} are allowed")
        with localcontext() as context:
            context.prec = _MAX_DIGITS + 20
            complement = float(1 - Decimal(text))
    else:
        raise ValueError(f"{_FORM}, not {text!r}")
    if complement > 1:
        raise ValueError(f"{text} is out of range; use a number in [0, 1)")
    if complement < _SMALLEST_COMPLEMENT:
        raise ValueError(f"{text} is out of range; beta is below 1, and 1 - beta is at least 1e-300")
    return complement


class BetaType(ValueType, frozen=True):
    """The type of the parameter `beta`."""

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "BETA"

    @property
    def range(self) -> str:
        """The range in interval notation."""
        return "[0, 1)"

    def parse(self, value: Any) -> Beta:
        """Return a `Beta`."""
        return Beta.parse(value)

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of a number or text."""
        return {"type": ["number", "string"]}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema: a number, `1-x` or `auto`."""
        return {
            "anyOf": [
                {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
                {
                    "type": "string",
                    "pattern": r"^(auto|1-(1|0?\.[0-9]{0,30}[1-9]|[1-9](\.[0-9]{1,20})?[eE]-[1-9][0-9]?))$",
                },
            ],
            "examples": [0.9999, "1-1e-7", "auto"],
        }

    def to_json(self, value: Any) -> float | str | None:
        """Return the canonical form of `Beta.to_json`; None stays None."""
        return value.to_json() if isinstance(value, Beta) else None
