"""Types of parameter values: each parses text or a Python value and describes itself as a JSON schema."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from statsvc.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_MAX_CHARACTERS = 4096
_MAX_METAVAR = 40
_FLOAT32_MAX = 3.4028234663852886e38
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def clean_text(value: Any) -> Any:
    """Return text without surrounding blanks, and any other value unchanged.

    Raises `ValueError` for empty or very long text.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text:
        raise ValueError("the value is empty")
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"the value has {len(text)} characters; at most {_MAX_CHARACTERS} are allowed")
    return text


def parse_number(value: Any) -> float:
    """Return a finite number from text or a Python number. Raises `ValueError`."""
    if isinstance(value, bool) or not (isinstance(value, str) or hasattr(value, "__float__")):
        raise ValueError(f"expected a number, not {value!r}")
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        raise ValueError(f"expected a number, not {value!r}")
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"expected a number, not {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{value} is not a finite number")
    return number


def parse_integer(value: Any) -> int:
    """Return an integer from text or a Python integer. Raises `ValueError`."""
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value):
            raise ValueError(f"expected an integer, not {value!r}")
        return int(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"expected an integer, not {value!r}")
    return int(value)


class ValueType(Struct, frozen=True):
    """The type of a parameter's value."""

    @property
    def metavar(self) -> str:
        """The placeholder of a value in command-line help."""
        raise NotImplementedError

    @property
    def range(self) -> str:
        """The allowed values as text, for instance `[0, 1)`; empty where there is no short form."""
        return ""

    def parse(self, value: Any) -> Any:
        """Return the canonical value of text or a Python value. Raises `ValueError`."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of a value in a query string."""
        raise NotImplementedError

    def to_json(self, value: Any) -> Any:
        """Return the JSON form of a canonical value, which `parse` also reads."""
        return list(value) if isinstance(value, tuple) else value

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the JSON form, in responses."""
        return {"type": "string"}


class Number(ValueType, frozen=True):
    """A finite number in a range.

    low_inclusive, high_inclusive  True where the range contains its end
    """

    low: float = -math.inf
    high: float = math.inf
    low_inclusive: bool = True
    high_inclusive: bool = False

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "NUMBER"

    @property
    def range(self) -> str:
        """The range in interval notation."""
        low = "-∞" if self.low == -math.inf else f"{self.low:g}"
        high = "∞" if self.high == math.inf else f"{self.high:g}"
        return f"{'[' if self.low_inclusive else '('}{low}, {high}{']' if self.high_inclusive else ')'}"

    def contains(self, value: float) -> bool:
        """Return whether a finite number lies in the range."""
        above = value >= self.low if self.low_inclusive else value > self.low
        below = value <= self.high if self.high_inclusive else value < self.high
        return above and below

    def parse(self, value: Any) -> float:
        """Return a float in the range; −0.0 becomes 0.0, so that both give the same spec."""
        number = parse_number(value)
        if not self.contains(number):
            raise ValueError(f"{number:g} is out of range; use a number in {self.range}")
        return number + 0.0

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of a number."""
        return {"type": "number"}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema with the limits of the range."""
        schema: dict[str, Any] = {"type": "number"}
        if self.low > -math.inf:
            schema["minimum" if self.low_inclusive else "exclusiveMinimum"] = self.low
        if self.high < math.inf:
            schema["maximum" if self.high_inclusive else "exclusiveMaximum"] = self.high
        return schema


class Integer(ValueType, frozen=True):
    """An integer from `low` to `high`; with `auto` also the word "auto"."""

    low: int
    high: int = INT64_MAX
    auto: bool = False

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "N"

    @property
    def range(self) -> str:
        """The range in interval notation."""
        return f"[{self.low}, ∞)" if self.high == INT64_MAX else f"[{self.low}, {self.high}]"

    def parse(self, value: Any) -> int | str:
        """Return the integer, or "auto" where it is allowed."""
        if self.auto and value == "auto":
            return "auto"
        number = parse_integer(value)
        if not self.low <= number <= self.high:
            auto = ', or "auto"' if self.auto else ""
            raise ValueError(f"{number} is out of range; use an integer from {self.low} to {self.high}{auto}")
        return number

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of an integer; with `auto` also of a word."""
        return {"type": ["integer", "string"] if self.auto else "integer"}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema with both limits."""
        integer = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [integer, {"type": "string", "enum": ["auto"]}]} if self.auto else integer


class Choice(ValueType, frozen=True):
    """One of several words.

    advice  word that is not a choice → message for it
    """

    choices: tuple[str, ...]
    advice: Mapping[str, str] = field(default_factory=dict)

    @property
    def metavar(self) -> str:
        """The choices, unless they are too long for one line of help."""
        return "|".join(self.choices) if self.metavar_lists_choices else "NAME"

    @property
    def metavar_lists_choices(self) -> bool:
        """True where the placeholder lists the choices."""
        return len("|".join(self.choices)) <= _MAX_METAVAR

    @property
    def range(self) -> str:
        """The choices."""
        return ", ".join(self.choices)

    def parse(self, value: Any) -> str:
        """Return the word."""
        if value in self.choices:
            return str(value)
        hint = ""
        if isinstance(value, str):
            if value in self.advice:
                raise ValueError(self.advice[value])
            hint = nearest(value, self.choices)
        raise ValueError(f"expected one of {', '.join(self.choices)}, not {value!r}{hint}")

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema, with the choices as `enum`."""
        return {"type": "string", "enum": list(self.choices)}


class Name(ValueType, frozen=True):
    """Text that is not empty."""

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "NAME"

    def parse(self, value: Any) -> str:
        """Return the name."""
        if not isinstance(value, str) or not value:
            raise ValueError(f"expected a name, not {value!r}")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema."""
        return {"type": "string", "pattern": r"\S", "maxLength": _MAX_CHARACTERS}


class Ids(ValueType, frozen=True):
    """A set of 64-bit ids, as in `255,254`; `none` is the empty set."""

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "IDS"

    def parse(self, value: Any) -> tuple[int, ...]:
        """Return the ids, ascending and without duplicates."""
        parts: list[Any] = []
        for item in value if isinstance(value, (list, tuple, set, frozenset)) else [value]:
            parts.extend(item.split(",") if isinstance(item, str) else [item])
        parts = [part.strip() if isinstance(part, str) else part for part in parts]
        if "none" in parts:
            if len(parts) > 1:
                raise ValueError("use either ids or none, not both")
            return ()
        ids = {parse_integer(part) for part in parts}
        for number in ids:
            if not INT64_MIN <= number <= INT64_MAX:
                raise ValueError(f"{number} does not fit in 64 bits")
        return tuple(sorted(ids))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of a list of ids."""
        return {"type": "array", "items": {"type": "integer"}}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the text form."""
        return {
            "type": "string",
            "pattern": r"^(none|[+-]?[0-9]{1,18}(,[+-]?[0-9]{1,18})*)$",
            "maxLength": _MAX_CHARACTERS,
            "examples": ["255,254", "none"],
        }


class Bounds(ValueType, frozen=True):
    """A lower and an upper bound, as in `0.1,10`."""

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "LO,HI"

    def parse(self, value: Any) -> tuple[float, float]:
        """Return both bounds."""
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or len(parts) != 2:
            raise ValueError(f"expected lo,hi, not {value!r}")
        low, high = (parse_number(part.strip() if isinstance(part, str) else part) for part in parts)
        if not 0 <= low <= high or high == 0 or high > _FLOAT32_MAX:
            raise ValueError(
                f"{low:g},{high:g} is out of range; use 0 <= lo <= hi, with hi above 0 and within float32"
            )
        return low + 0.0, high

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of a list of both bounds."""
        return {"type": "array", "items": {"type": "number"}}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the text form."""
        return {"type": "string", "format": "bounds", "examples": ["0.1,10"]}


class Size(ValueType, frozen=True):
    """Height and width in pixels, as in `512x1024` or, from a list, `512,1024`; one number is both."""

    largest: int = 1 << 20

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "HxW"

    def parse(self, value: Any) -> tuple[int, int]:
        """Return height and width."""
        parts = re.split("[x,]", value.lower()) if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            parts = [parts]
        sides = [parse_integer(part.strip() if isinstance(part, str) else part) for part in parts]
        if len(sides) not in (1, 2) or not all(1 <= side <= self.largest for side in sides):
            raise ValueError(f"expected height x width in pixels, as in 512x1024, not {value!r}")
        return sides[0], sides[-1]

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the list of height and width."""
        return {"type": "array", "items": {"type": "integer"}}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the text form."""
        return {
            "type": "string",
            "pattern": "^[1-9][0-9]{0,5}([xX,][1-9][0-9]{0,5})?$",
            "examples": ["512x1024"],
        }


class Range(ValueType, frozen=True):
    """A range of positive factors, as in `0.5:2` or, from a list, `0.5,2`; one number is both ends."""

    low: float
    high: float

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "LO:HI"

    def parse(self, value: Any) -> tuple[float, float]:
        """Return both ends."""
        parts = re.split("[:,]", value) if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            parts = [parts]
        ends = [parse_number(part.strip() if isinstance(part, str) else part) for part in parts]
        if len(ends) not in (1, 2) or not self.low <= ends[0] <= ends[-1] <= self.high:
            raise ValueError(f"expected lo:hi within {self.low:g}:{self.high:g}, as in 0.5:2, not {value!r}")
        return ends[0], ends[-1]

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the list of both ends."""
        return {"type": "array", "items": {"type": "number"}}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the text form."""
        return {"type": "string", "format": "factor-range", "examples": ["0.5:2"]}


class Factors(ValueType, frozen=True):
    """Positive factors of classes, by class name or id, as in `person:2,11:1.5`."""

    @property
    def metavar(self) -> str:
        """The placeholder in command-line help."""
        return "CLASS:FACTOR,…"

    def parse(self, value: Any) -> tuple[tuple[str, float], ...]:
        """Return (class name or id as text, factor) pairs in the order of the names."""
        factors: dict[str, float] = {}
        for name, factor in _pairs(value):
            if not name:
                raise ValueError(_FACTORS_FORM)
            if name in factors:
                raise ValueError(f"{name} occurs twice; use one factor for each class")
            factors[name] = parse_number(factor)
            if factors[name] <= 0:
                raise ValueError(
                    f"{name}:{factor} is out of range; factors are above 0. To exclude a class, use "
                    "ignore_index"
                )
        return tuple(sorted(factors.items()))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of an object, class → factor."""
        return {"type": "object", "additionalProperties": {"type": "number"}}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the text form."""
        return {"type": "string", "format": "class-factors", "examples": ["person:2,11:1.5"]}

    def to_json(self, value: Any) -> dict[str, float] | None:
        """Return class → factor; null without factors."""
        return dict(value) or None


_FACTORS_FORM = "expected class:factor pairs, as in person:2,11:1.5"


def _pairs(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, str):
        pairs: list[tuple[str, Any]] = []
        for part in value.split(","):
            name, colon, factor = part.rpartition(":")
            if not colon:
                raise ValueError(f"{_FACTORS_FORM}, not {part!r}")
            pairs.append((name.strip(), factor.strip()))
        return pairs
    items = value.items() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)) or not all(len(item) == 2 for item in items):
        raise ValueError(f"{_FACTORS_FORM}, not {value!r}")
    return [(str(name), factor) for name, factor in items]
