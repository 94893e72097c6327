"""What is asked of a table: the weighting method and every choice made when reading the counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from statsvc.errors import InvalidParameter, nearest
from statsvc.weighting import parsing, schemes
from statsvc.weighting.methods import DEFAULT, METHODS, OWNER
from statsvc.weighting.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from statsvc.weighting.methods import Method

PARAMETERS: dict[str, str] = {
    "method": f"weighting method, one of {', '.join(METHODS)}; default {DEFAULT}",
    "beta": "effective_num: in [0, 1), also 1-1e-7 or auto (1 − 1/median of n); default 0.9999",
    "alpha": "power: exponent in [0, 4], required",
    "c": "enet: at least 1; default 1.02",
    "epsilon": "inverse_eps: above 0; default 0.001",
    "tau": "logit_adjustment: above 0; default 1",
    "upper": "linear: at least 0; default 1",
    "unit": "effective_num: what is counted, pixels (default) or images",
    "normalize": "mean (default: the mean over present classes is 1), sum, max, min, expected, none",
    "absent": "weight of a class without pixels: zero (default), one, max, error, eps",
    "denominator": "pixels that shares are of: counted (default) or all, ignored ones too",
    "ignore_index": "ids after the class map that are not counted: 255,254 or none; default the dataset's, "
    "else 255 and every negative id",
    "num_classes": "length of the weights vector; default the dataset's",
    "class_map": "built-in class map, or none for raw ids; default the dataset's",
    "unexpected": "ids that are no class: report (default) or error",
    "split": "count only the samples of this split; default all samples",
    "clip": "lo,hi: bounds of the weights of present classes",
    "multiply": "factors for classes by name or id, for instance person:2,11:1.5",
    "recipe": f"settings behind published weights, one of {', '.join(RECIPES)}",
    "sampler": "weigh the stream that this sampler draws, not the files: "
    f"{' or '.join(schemes.STREAMS)}; default none, every image equally often",
    "temperature": "rare_class: above 0; default 0.01",
    "min_pixels": "rare_class: pixels of a class from which on an image counts for it; default auto, "
    f"{schemes.MIN_PIXELS} and less for small images",
    "threshold": "repeat_factor: in (0, 1]; default 0.001",
}
"""Every parameter of a spec and what it takes."""

DEFAULTS = {"normalize": "mean", "absent": "zero", "denominator": "counted", "unexpected": "report"}
_ONLY_WEIGHTS = ("normalize", "absent", "clip", "multiply")
SAMPLING = ("sampler", *schemes.OWNER)
"""The parameters that choose a stream; a spec without a sampler has none of them."""


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """A question to a table of counts; None leaves a choice to the method, the dataset or the default.

    Make it with `from_params`, which checks; `resolved` checks as well.

    beta           number in [0, 1), "auto", or "1-1e-20" where a float would round it to 1
    ignore_index   ids after the class map; () ignores none
    class_map      built-in name, "none" for raw ids
    clip           lowest and highest weight of a present class
    multiply       (class name or id as text, factor)
    min_pixels     number of pixels, or "auto"
    """

    method: str = DEFAULT
    beta: float | str | None = None
    alpha: float | None = None
    c: float | None = None
    epsilon: float | None = None
    tau: float | None = None
    upper: float | None = None
    unit: str | None = None
    normalize: str | None = None
    absent: str | None = None
    denominator: str | None = None
    ignore_index: tuple[int, ...] | None = None
    num_classes: int | None = None
    class_map: str | None = None
    unexpected: str | None = None
    split: str | None = None
    clip: tuple[float, float] | None = None
    multiply: tuple[tuple[str, float], ...] = ()
    recipe: str | None = None
    sampler: str | None = None
    temperature: float | None = None
    min_pixels: int | str | None = None
    threshold: float | None = None

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> WeightSpec:
        """Read parameters given as text, as in a query string, or as Python values; None is left out.

        Raises `InvalidParameter` with every problem found.
        """
        given, problems = _parsed(params)
        problems += _contradictions(given, {name for name, _ in problems})
        if problems:
            raise InvalidParameter(*problems)
        if "recipe" in given:
            given = {**RECIPES[given["recipe"]].settings, **given}
        return cls(**given)

    @property
    def kind(self) -> str:
        """What the method gives: "weights", "additive" or "pos_weight"."""
        return METHODS[self.method].kind

    def resolved(self) -> WeightSpec:
        """Return the spec with every default and the recipe filled in; equal questions become equal.

        What the dataset decides (ids ignored, number of classes, class map, split) stays None.
        Raises `InvalidParameter` as `from_params` does.
        """
        return _resolved(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical JSON form of the resolved spec: what `from_params` reads, in fixed order.

        Parameters of other methods are left out, for methods that are no class weights also normalize,
        absent, clip and multiply; without a sampler also its name, and always other samplers' parameters.
        """
        values = self.resolved()._values()
        method = METHODS[values["method"]]
        scheme = schemes.SCHEMES.get(values["sampler"])
        result: dict[str, Any] = {}
        for name, value in values.items():
            if (name in OWNER and OWNER[name] is not method) or (
                name in _ONLY_WEIGHTS and method.kind != "weights"
            ):
                continue
            if name in SAMPLING and (scheme is None or schemes.OWNER.get(name, scheme) is not scheme):
                continue
            if name == "multiply":
                result[name] = dict(value) or None
            else:
                result[name] = list(value) if isinstance(value, tuple) else value
        return result

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS = tuple(field.name for field in fields(WeightSpec))


@lru_cache(maxsize=4096)
def _resolved(spec: WeightSpec) -> WeightSpec:
    given = {name: value for name, value in spec._values().items() if value not in (None, ())}
    if spec.ignore_index == ():
        given["ignore_index"] = ()
    if spec.recipe is not None and spec.method == DEFAULT:
        del given["method"]
    filled = WeightSpec.from_params(given)._values()
    method = METHODS[filled["method"]]
    for parameter in method.parameters:
        if filled[parameter.name] is None:
            filled[parameter.name] = parameter.default
    for parameter in schemes.SCHEMES[filled["sampler"]].parameters if filled["sampler"] else ():
        if filled[parameter.name] is None:
            filled[parameter.name] = parameter.default
    for name, default in DEFAULTS.items():
        if filled[name] is None and (method.kind == "weights" or name not in _ONLY_WEIGHTS):
            filled[name] = default
    if filled["recipe"] is not None and filled["ignore_index"] is None:
        filled["ignore_index"] = RECIPES[filled["recipe"]].ignore_index
    return WeightSpec(**filled)


def _parsed(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    given: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for alias, value in params.items():
        name = "ignore_index" if alias == "ignore" else alias
        if name not in PARAMETERS:
            problems.append((alias, f"unknown parameter{nearest(alias, [*PARAMETERS, 'ignore'])}"))
        elif value is not None:
            if name in given:
                problems.append((alias, "ignore is another name of ignore_index: give one of them"))
                continue
            try:
                given[name] = parsing.parse(name, value)
            except ValueError as problem:
                problems.append((alias, str(problem)))
    return given, problems


def _contradictions(given: Mapping[str, Any], malformed: set[str]) -> Iterable[tuple[str, str]]:
    if malformed & {"method", "recipe"}:
        return
    recipe = RECIPES.get(given.get("recipe", ""))
    settings = recipe.settings if recipe is not None else {}
    name = given.get("method", settings.get("method", DEFAULT))
    method = METHODS[name]
    for parameter, value in given.items():
        if parameter in settings:
            if settings[parameter] != value:
                assert recipe is not None
                yield parameter, f"recipe {recipe.name} sets {settings[parameter]}; leave out one of the two"
        elif parameter in OWNER and OWNER[parameter] is not method:
            yield parameter, f"{parameter} belongs to {OWNER[parameter].name}, not to {name}"
        elif parameter in _ONLY_WEIGHTS and method.kind != "weights":
            yield (
                parameter,
                f"{name} gives {method.kind}, not class weights: leave {parameter} out",
            )
    yield from _contradictions_of_a_sampler(given, malformed, method)
    for required in method.parameters:
        if required.default is None and required.name not in {*given, *settings, *malformed}:
            yield required.name, f"{name} needs {required.name}, in {required.range}"


def _contradictions_of_a_sampler(
    given: Mapping[str, Any], malformed: set[str], method: Method
) -> Iterable[tuple[str, str]]:
    if "sampler" in malformed:
        return
    sampler = given.get("sampler")
    for parameter in given:
        owner = schemes.OWNER.get(parameter)
        if owner is not None and owner.name != sampler:
            yield (
                parameter,
                f"{parameter} belongs to sampler={owner.name}" + (f", not to {sampler}" if sampler else ""),
            )
    if sampler is not None and not method.of_shares:
        yield ("method", no_amounts(method))


def no_amounts(method: Method) -> str:
    """Return why a method that needs amounts cannot weigh a stream."""
    return (
        f"{method.name} needs to know how much different data a class has, and a stream has shares only: "
        "what is drawn again is no new data. Use a method of shares, such as sqrt_inv_freq, or leave sampler "
        "and shares of datasets out"
    )
