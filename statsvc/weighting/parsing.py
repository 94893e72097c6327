"""Reading the values of a spec's parameters, from text or from Python values."""

from __future__ import annotations

import math
import re
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

from statsvc.classes.class_maps import BUILTIN, MAX_CLASSES
from statsvc.errors import nearest
from statsvc.weighting import schemes
from statsvc.weighting.methods import METHODS, OWNER
from statsvc.weighting.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_LONGEST = 4096
_FLOAT32_MAX = 3.4028234663852886e38

NORMALIZE = ("mean", "sum", "max", "min", "expected", "none")
ABSENT = ("zero", "one", "max", "error", "eps")
DENOMINATOR = ("counted", "all")
UNEXPECTED = ("report", "error")

CHOICES: dict[str, tuple[str, ...]] = {
    "method": tuple(METHODS),
    "unit": ("pixels", "images"),
    "normalize": NORMALIZE,
    "absent": ABSENT,
    "denominator": DENOMINATOR,
    "class_map": (*BUILTIN, "none"),
    "unexpected": UNEXPECTED,
    "recipe": tuple(RECIPES),
    "sampler": tuple(schemes.STREAMS),
}
"""The parameters that take one of a few words."""


def parse(name: str, value: Any) -> Any:
    """Return the value of the parameter `name` in its canonical form. Raises `ValueError`."""
    if isinstance(value, str):
        value = value.strip()
        if not value:
            raise ValueError("it is empty")
        if len(value) > _LONGEST:
            raise ValueError(f"{len(value)} characters are too many")
    return _PARSERS[name](value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not (isinstance(value, str) or hasattr(value, "__float__")):
        raise ValueError(f"expected a number, not {value!r}")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError(f"expected a number, not {value!r}")
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"expected a number, not {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{value} is not a finite number")
    return number


def _integer(value: Any) -> int:
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value):
            raise ValueError(f"expected an integer, not {value!r}")
        return int(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"expected an integer, not {value!r}")
    return int(value)


def _one_of(choices: Iterable[str]) -> Callable[[Any], str]:
    known = tuple(choices)

    def parser(value: Any) -> str:
        if value not in known:
            hint = nearest(value, known) if isinstance(value, str) else ""
            raise ValueError(f"expected one of {', '.join(known)}, not {value!r}{hint}")
        return str(value)

    return parser


def _in_range(name: str) -> Callable[[Any], float]:
    owner = OWNER.get(name) or schemes.OWNER[name]
    parameter = next(p for p in owner.parameters if p.name == name)

    def parser(value: Any) -> float:
        number = _number(value)
        if not parameter.contains(number):
            raise ValueError(f"{number:g} is out of range: {name} is in {parameter.range}")
        return number + 0.0  # -0.0 and 0.0 are one question

    return parser


def one_minus_beta(beta: float | str) -> float:
    """Return 1 − β without the rounding of β: 1e-20 for "1-1e-20", and 1e-4 for 0.9999, in (0, 1].

    A float is taken as the decimal number it prints as, so that 0.9999 and "1-1e-4" are the same.
    Raises `ValueError` for anything that is no β.
    """
    text = beta if isinstance(beta, str) else repr(_number(beta))
    form = "expected a number in [0, 1), 1-x, or auto"
    if text.startswith("1-"):
        if not _NUMBER.fullmatch(text[2:]):
            raise ValueError(f"{form}, not {text!r}")
        rest = float(Decimal(text[2:]))
    elif _NUMBER.fullmatch(text):
        if len(text) > 400:
            raise ValueError("400 digits are enough")
        with localcontext() as context:
            context.prec = 420
            rest = float(1 - Decimal(text))
    else:
        raise ValueError(f"{form}, not {text!r}")
    if rest > 1:
        raise ValueError(f"{text} is out of range: beta is in [0, 1)")
    if rest < 1e-300:
        raise ValueError(f"{text} is out of range: beta is below 1, and 1 - beta at least 1e-300")
    return rest


def _beta(value: Any) -> float | str:
    if value == "auto":
        return "auto"
    rest = one_minus_beta(value if isinstance(value, str) else _number(value))
    # The float nearest to beta, unless it loses digits of 1 - beta: then the text.
    if rest > 1e-20:
        with localcontext() as context:
            context.prec = 60
            near = float(1 - Decimal(repr(rest)))
        if near < 1 and one_minus_beta(near) == rest:
            return near
    return f"1-{rest!r}"


def _ignore_index(value: Any) -> tuple[int, ...]:
    parts: list[Any] = []
    for item in value if isinstance(value, (list, tuple, set, frozenset)) else [value]:
        parts.extend(item.split(",") if isinstance(item, str) else [item])
    parts = [part.strip() if isinstance(part, str) else part for part in parts]
    if "none" in parts:
        if len(parts) > 1:
            raise ValueError("none stands alone: give ids, or none")
        return ()
    ids = []
    for part in parts:
        number = _integer(part)
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{number} does not fit in 64 bits")
        ids.append(number)
    return tuple(sorted(set(ids)))


def _num_classes(value: Any) -> int:
    number = _integer(value)
    if not 1 <= number <= MAX_CLASSES:
        raise ValueError(f"{number} is out of range: from 1 to {MAX_CLASSES}")
    return number


def _split(value: Any) -> str:
    name = value if isinstance(value, str) else ""
    if not name:
        raise ValueError(f"expected the name of a split, not {value!r}")
    return name


def _clip(value: Any) -> tuple[float, float]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or len(parts) != 2:
        raise ValueError(f"expected lo,hi, not {value!r}")
    low, high = (_number(part.strip() if isinstance(part, str) else part) for part in parts)
    if not 0 <= low <= high or high == 0 or high > _FLOAT32_MAX:
        raise ValueError(f"{low:g},{high:g} is out of range: 0 <= lo <= hi, hi above 0 and within float32")
    return low + 0.0, high


def _multiply(value: Any) -> tuple[tuple[str, float], ...]:
    form = "expected class:factor pairs, as in person:2,11:1.5"
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, str):
        for part in value.split(","):
            name, colon, factor = part.rpartition(":")
            if not colon:
                raise ValueError(f"{form}, not {part!r}")
            pairs.append((name.strip(), factor.strip()))
    else:
        items = value.items() if isinstance(value, dict) else value
        if not isinstance(value, (dict, list, tuple)) or not all(len(item) == 2 for item in items):
            raise ValueError(f"{form}, not {value!r}")
        pairs = [(str(name), factor) for name, factor in items]
    factors: dict[str, float] = {}
    for name, factor in pairs:
        if not name:
            raise ValueError(form)
        if name in factors:
            raise ValueError(f"{name} is given twice")
        factors[name] = _number(factor)
        if factors[name] <= 0:
            raise ValueError(f"{name}:{factor}: a factor is above 0; to leave a class out use ignore_index")
    return tuple(sorted(factors.items()))


def _sampler(value: Any) -> str:
    if isinstance(value, str) and value in schemes.SCHEMES and value not in schemes.STREAMS:
        raise ValueError(
            f"{value} follows from class weights, so none follow from it: give "
            f"{' or '.join(schemes.STREAMS)}; GET /datasets/NAME/sampling has its probabilities"
        )
    return _one_of(CHOICES["sampler"])(value)


def _min_pixels(value: Any) -> int | str:
    if value == "auto":
        return "auto"
    number = _integer(value)
    if not 1 <= number < 2**63:
        raise ValueError(f"{number} is out of range: a number of pixels from 1 on, or auto")
    return number


_PARSERS: dict[str, Callable[[Any], Any]] = {
    **{name: _one_of(choices) for name, choices in CHOICES.items()},
    "beta": _beta,
    "alpha": _in_range("alpha"),
    "c": _in_range("c"),
    "epsilon": _in_range("epsilon"),
    "tau": _in_range("tau"),
    "upper": _in_range("upper"),
    "ignore_index": _ignore_index,
    "num_classes": _num_classes,
    "split": _split,
    "clip": _clip,
    "multiply": _multiply,
    "sampler": _sampler,
    "temperature": _in_range("temperature"),
    "min_pixels": _min_pixels,
    "threshold": _in_range("threshold"),
}
