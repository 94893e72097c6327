"""The parameters of class weights: one table for Python, HTTP, the command line, the client and the docs.

To add a parameter, add one field to `WeightSpec`. Parsing, checks, the canonical JSON form, `GET /weights`
and its OpenAPI description, the options of the commands, and `GET /methods` follow from it. What remains is
its arithmetic, for instance in `statsvc.weighting.compute`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from statsvc.classes.class_maps import BUILTIN, MAX_CLASSES
from statsvc.common.plain_values import plain
from statsvc.errors import Inapplicable, InvalidParameter, nearest
from statsvc.weighting import schemes
from statsvc.weighting.beta import Beta, BetaType
from statsvc.weighting.methods import DEFAULT, METHODS
from statsvc.weighting.parameter import Parameter
from statsvc.weighting.recipes import RECIPES
from statsvc.weighting.value_types import (
    Bounds,
    Choice,
    Factors,
    Ids,
    Integer,
    Name,
    Number,
    Range,
    Size,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from statsvc.weighting.methods import Method
    from statsvc.weighting.value_types import ValueType

_IMAGE_WEIGHTS_ADVICE = (
    "image_weights derives image probabilities from class weights, so class weights cannot follow from it. "
    f"Use {' or '.join(schemes.STREAMS)}. GET /datasets/NAME/sampling returns its probabilities"
)


_declared: list[Parameter] = []
"""The parameters of the fields of `WeightSpec`, without their names, which only the class knows."""


def parameter_field(description: str, value_type: ValueType, *, unset: Any = None, **options: Any) -> Any:
    """Declare the `Parameter` of the next field of `WeightSpec`; return the field's default, `unset`."""
    if options.get("sampler") is not None:
        options["scope"] = "stream"
    _declared.append(Parameter("", description, value_type, **options))
    return unset


class WeightSpec(Struct, frozen=True):
    """The method and parameters of a weights request.

    None leaves a choice to the method, the dataset or the default. Create specs with `from_params`, which
    checks the values; `resolved` checks them too.

    ignore_index   ids after the class map; () ignores none
    class_map      built-in name, or "none" for raw ids
    clip           smallest and largest weight, or pos_weight, of a present class
    multiply       (class name, or id as text; factor)
    min_pixels     number of pixels, or "auto"
    """

    method: str = parameter_field("Weighting method", Choice(tuple(METHODS)), unset=DEFAULT, default=DEFAULT)
    beta: Beta | float | str | None = parameter_field(
        "0 gives uniform weights, near 1 inverse frequency; also 1-1e-7, or auto for 1 - 1/median of n",
        BetaType(),
        default=Beta.parse(0.9999),
        method="effective_num",
    )
    alpha: float | None = parameter_field(
        "Exponent: 0 gives uniform weights, 1 inverse frequency",
        Number(0, 4, high_inclusive=True),
        required=True,
        method="power",
    )
    c: float | None = parameter_field(
        "Offset in the logarithm: a smaller c gives rare classes larger weights",
        Number(1),
        default=1.02,
        method="enet",
    )
    epsilon: float | None = parameter_field(
        "Constant added to the share of pixels",
        Number(0, low_inclusive=False),
        default=0.001,
        method="inverse_eps",
    )
    tau: float | None = parameter_field(
        "Temperature", Number(0, low_inclusive=False), default=1.0, method="logit_adjustment"
    )
    upper: float | None = parameter_field(
        "Weight above 1 that a class with share 0 would get",
        Number(0),
        default=1.0,
        method="linear",
    )
    k: float | None = parameter_field(
        "Factor in the logarithm: a larger k makes the weights more equal",
        Number(0, low_inclusive=False),
        default=1.0,
        method="log_inv_freq",
    )
    offset: float | None = parameter_field(
        "Constant added to the logarithm",
        Number(low_inclusive=False),
        default=0.0,
        method="log_inv_freq",
    )
    floor: float | None = parameter_field(
        "Smallest weight before normalization", Number(0), default=0.0, method="log_inv_freq"
    )
    unit: str | None = parameter_field(
        "What n counts, and what the shares of classes in repeat_factor count (images by default); objects "
        "needs a source that numbers them",
        Choice(("pixels", "images", "objects")),
        default="pixels",
        method="effective_num",
        too=("repeat_factor", "images"),
        comparable=True,
    )
    strength: float | None = parameter_field(
        "Exponent of the method's weights before normalization: 0 gives uniform weights, 1 the method's",
        Number(0, 1, high_inclusive=True),
        default=1.0,
    )
    normalize: str | None = parameter_field(
        "Scale of the weights: mean sets the mean over present classes to 1, sum their sum, max the largest "
        "and min the smallest weight; expected sets the mean over pixels to 1",
        Choice(("mean", "sum", "max", "min", "expected", "none")),
        default="mean",
        scope="class_weights",
    )
    absent: str | None = parameter_field(
        "Weight of a class without pixels; error rejects the request",
        Choice(("zero", "one", "max", "error", "eps")),
        default="zero",
        scope="class_weights",
        comparable=True,
    )
    denominator: str | None = parameter_field(
        "Pixels that shares refer to: counted ones, or all, including ignored ones",
        Choice(("counted", "all")),
        default="counted",
        comparable=True,
    )
    ignore_index: tuple[int, ...] | None = parameter_field(
        "Ids to ignore, after the class map, or none; by default the dataset's, else 255 and negative ids",
        Ids(),
        scope="counts",
        repeatable=True,
        aliases=("ignore",),
        comparable=True,
    )
    num_classes: int | None = parameter_field(
        "Length of the weights vector; by default the dataset's",
        Integer(1, MAX_CLASSES),
        scope="counts",
        comparable=True,
    )
    class_map: str | None = parameter_field(
        "Built-in class map instead of the dataset's; none keeps raw ids",
        Choice((*BUILTIN, "none")),
        scope="counts",
        comparable=True,
    )
    unexpected: str | None = parameter_field(
        "What to do about ids that do not map to a class",
        Choice(("report", "error")),
        default="report",
        scope="counts",
        comparable=True,
    )
    split: str | None = parameter_field(
        "Count only the samples of this split, of a group RULE:VALUE such as city:zurich, or of a group in a "
        "split: train/city:zurich; by default all",
        Name(),
        scope="counts",
        aliases=("group",),
        comparable=True,
    )
    clip: tuple[float, float] | None = parameter_field(
        "Smallest and largest weight of present classes", Bounds(), scope="factors"
    )
    multiply: tuple[tuple[str, float], ...] = parameter_field(
        "Factors of classes, by name or id", Factors(), unset=(), scope="class_weights"
    )
    recipe: str | None = parameter_field("Settings of published weights", Choice(tuple(RECIPES)))
    sampler: str | None = parameter_field(
        "Compute weights of the stream that this sampler draws; by default every image counts once",
        Choice(schemes.STREAMS, {"image_weights": _IMAGE_WEIGHTS_ADVICE}),
        scope="stream",
        comparable=True,
    )
    temperature: float | None = parameter_field(
        "Temperature of the softmax: a smaller one draws the rarest classes more often",
        Number(0, low_inclusive=False),
        default=0.01,
        sampler="rare_class",
        comparable=True,
    )
    min_pixels: int | str | None = parameter_field(
        f"Pixels of a class from which on an image counts for it; auto is {schemes.MIN_PIXELS}, and "
        "proportionally less for images smaller than 1024x512 on average",
        Integer(1, auto=True),
        default="auto",
        sampler="rare_class",
        comparable=True,
    )
    threshold: float | None = parameter_field(
        "Repeat images with a class that has a smaller share of the images, pixels or objects",
        Number(0, 1, low_inclusive=False, high_inclusive=True),
        default=0.001,
        sampler="repeat_factor",
        comparable=True,
    )

    crop: tuple[int, int] | None = parameter_field(
        "Compute weights of random crops of this size in pixels, height x width; needs counts on a grid",
        Size(),
        scope="crop",
        comparable=True,
    )
    scale: tuple[float, float] | None = parameter_field(
        "Range of the factor by which images are resized before they are cropped; only with crop",
        Range(0.01, 100),
        default=(1.0, 1.0),
        scope="crop",
        comparable=True,
    )
    cat_max_ratio: float | None = parameter_field(
        "Draw a crop again, at most ten times, while one class has this share of its counted pixels or more; "
        "only with crop",
        Number(0, 1, low_inclusive=False, high_inclusive=True),
        default=1.0,
        scope="crop",
        comparable=True,
    )

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> WeightSpec:
        """Return the spec of parameters, as text from a query string or as Python values; None is left out.

        Raises `InvalidParameter` with every problem found.
        """
        values, problems, repeated = _parsed(params)
        contradictions = [*repeated, *_contradictions(values, {name for name, _ in (*problems, *repeated)})]
        if problems:
            raise InvalidParameter(*problems, *contradictions)
        if contradictions:
            raise Inapplicable(*contradictions)
        return cls(**{**_settings(values.get("recipe")), **values})

    @property
    def kind(self) -> str:
        """What the method returns: "weights", "additive" or "pos_weight"."""
        return METHODS[self.method].kind

    def resolved(self) -> WeightSpec:
        """Return the spec with all defaults and the recipe filled in, so that equivalent specs are equal.

        What the dataset decides (ignored ids, number of classes, class map, split) stays None.
        Raises `InvalidParameter` as `from_params` does.
        """
        return _resolved(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical JSON form of the resolved spec, which `from_params` reads, in fixed order.

        Parameters that do not apply to the method and the sampler are left out.
        """
        values = self.resolved()._values()
        return {
            name: parameter.type.to_json(values[name])
            for name, parameter in PARAMETERS.items()
            if parameter.applies(METHODS[values["method"]], values["sampler"], values["crop"])
        }

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in PARAMETERS}


PARAMETERS: dict[str, Parameter] = {
    name: replace(declared, name=name)
    for name, declared in zip(WeightSpec.__struct_fields__, _declared, strict=True)
}
"""Every parameter by name, in the order of the canonical JSON form."""

ALIASES: dict[str, str] = {
    alias: parameter.name for parameter in PARAMETERS.values() for alias in parameter.aliases
}
"""Other name of a parameter → its name."""

COUNTS = tuple(name for name, parameter in PARAMETERS.items() if parameter.scope == "counts")
"""The parameters that select and interpret counts."""

STREAM = tuple(name for name, parameter in PARAMETERS.items() if parameter.scope == "stream")
"""The parameters of a sampler's stream; a spec without a sampler has none of them."""

CROP = tuple(name for name, parameter in PARAMETERS.items() if parameter.scope == "crop")
"""The parameters of random crops; a spec without a crop has none of them."""


@lru_cache(maxsize=4096)
def _resolved(spec: WeightSpec) -> WeightSpec:
    params = {name: value for name, value in spec._values().items() if value not in (None, ())}
    if spec.ignore_index == ():
        params["ignore_index"] = ()
    if spec.recipe is not None and spec.method == DEFAULT:
        del params["method"]
    values = WeightSpec.from_params(params)._values()
    method, sampler, crop = METHODS[values["method"]], values["sampler"], values["crop"]
    for name, parameter in PARAMETERS.items():
        if values[name] is None and parameter.applies(method, sampler, crop):
            values[name] = parameter.default_for(sampler)
    if values["recipe"] is not None and values["ignore_index"] is None:
        values["ignore_index"] = RECIPES[values["recipe"]].ignore_index
    return WeightSpec(**values)


def _parsed(
    params: Mapping[str, Any],
) -> tuple[dict[str, Any], list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the values, invalid parameters, and those that others contradict."""
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    repeated: list[tuple[str, str]] = []
    joined = _with_group_of_split(params)
    for key, value in joined.items():
        name = ALIASES.get(key, key)
        if name not in PARAMETERS:
            problems.append((key, f"unknown parameter{nearest(key, [*PARAMETERS, *ALIASES])}"))
        elif value is not None:
            if name in values:
                alias = key if key in ALIASES else next(iter(PARAMETERS[name].aliases))
                repeated.append((key, f"{alias} is another name of {name}; use only one of them"))
                continue
            try:
                values[name] = PARAMETERS[name].parse(plain(value))
            except ValueError as problem:
                # Both may be valid, and too long together.
                is_joined = name == "split" and joined is not params
                (repeated if is_joined else problems).append((key, str(problem)))
    return values, problems, repeated


def _with_group_of_split(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters with a split and a group as one text, `train/city:zurich`."""
    split, group = params.get("split"), params.get("group")
    if not isinstance(split, str) or not isinstance(group, str) or not (split.strip() and group.strip()):
        return params
    joined = f"{split.strip()}/{group.strip()}"
    return {name: joined if name == "split" else value for name, value in params.items() if name != "group"}


def _settings(recipe: str | None) -> dict[str, Any]:
    """Return the values that a recipe sets, parsed."""
    if recipe is None:
        return {}
    return {name: PARAMETERS[name].parse(value) for name, value in RECIPES[recipe].settings.items()}


def _contradictions(values: Mapping[str, Any], malformed: set[str]) -> Iterable[tuple[str, str]]:
    if malformed & {"method", "recipe"}:
        return
    recipe = values.get("recipe")
    settings = _settings(recipe)
    method = METHODS[values.get("method", settings.get("method", DEFAULT))]
    for name, value in values.items():
        parameter = PARAMETERS[name]
        if name in settings:
            if settings[name] != value:
                yield (
                    name,
                    f"recipe {recipe} sets {name}={RECIPES[str(recipe)].settings[name]}; leave out either "
                    f"recipe or {name}",
                )
        elif parameter.method is not None and not parameter.applies(method, values.get("sampler"), None):
            yield name, f"{name} belongs to {parameter.owner}, not to {method.name}; leave it out"
        elif not parameter.suits(method):
            yield name, f"{method.name} returns {method.kind}, not class weights; leave out {name}"
    yield from _sampler_contradictions(values, malformed, method)
    yield from _crop_contradictions(values, malformed, method)
    for name, parameter in PARAMETERS.items():
        required = parameter.required and parameter.applies(method, values.get("sampler"), values.get("crop"))
        if required and name not in {*values, *settings, *malformed}:
            yield name, f"{method.name} requires {name}, a number in {parameter.type.range}"


def _sampler_contradictions(
    values: Mapping[str, Any], malformed: set[str], method: Method
) -> Iterable[tuple[str, str]]:
    if "sampler" in malformed:
        return
    sampler = values.get("sampler")
    for name in values:
        owner = PARAMETERS[name].sampler
        if owner is not None and owner != sampler:
            other = (
                f", not to {sampler}; leave it out" if sampler else f"; leave it out, or add sampler={owner}"
            )
            yield name, f"{name} belongs to sampler={owner}{other}"
    if sampler is not None and "crop" not in values and method.needs_absolute_counts:
        yield "method", method.unusable_for_streams()


def _crop_contradictions(
    values: Mapping[str, Any], malformed: set[str], method: Method
) -> Iterable[tuple[str, str]]:
    if "crop" in values:
        if method.needs_absolute_counts:
            yield "method", method.unusable_for_streams()
    elif "crop" not in malformed:
        for name in values:
            if PARAMETERS[name].scope == "crop":
                yield name, f"{name} belongs to a crop; leave it out, or add crop=HxW"
