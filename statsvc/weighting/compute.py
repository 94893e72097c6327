"""The arithmetic from counts to weights, without I/O.

Notation: n pixels of a class, N the denominator, p = n/N, I pixels of the images in which the class
occurs, m the number of those images, o the number of its objects, C the number of classes, absent ones
included. Order of the steps: method → strength → normalize over present classes → multiply → clip → absent
policy. All in float64. The sources of the formulas are in `statsvc.weighting.methods`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from statsvc.common.plurals import part_with_verb
from statsvc.errors import Inapplicable, Unanswerable, nearest
from statsvc.weighting.beta import Beta
from statsvc.weighting.class_names import class_name, listed
from statsvc.weighting.methods import METHODS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from statsvc.weighting.methods import Kind
    from statsvc.weighting.parameters import WeightSpec

    Float64 = NDArray[np.float64]

EPS = 1e-10
"""The share of pixels that `absent=eps` assumes for a class without pixels."""

FLOAT32_MAX = float(np.finfo(np.float32).max)


class ClassCounts(Struct, frozen=True):
    """Pixels and images of classes 0 … C−1; for a stream their expectations, as float64.

    pixels        int64 [C], pixels of each class, ignored classes included
    ignored       bool [C], True for a class that is excluded and keeps weight 0
    total         the denominator N, in pixels
    images        int64 [C], number of images in which the class occurs; None where unknown
    image_pixels  float64 [C], pixels of those images, all or counted ones as `denominator` says; None where
                  unknown
    samples       number of images; None where unknown
    objects       int64 [C], number of objects, see `statsvc.weighting.class_columns.object_counts`; None
                  where unknown
    names         names of classes 0 … n−1, for messages and `multiply`
    """

    pixels: NDArray[np.int64] | Float64
    ignored: NDArray[np.bool_]
    total: float
    images: NDArray[np.int64] | Float64 | None = None
    image_pixels: Float64 | None = None
    samples: int | None = None
    objects: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()

    def name(self, class_id: int) -> str:
        """Return the class's name, or its id as text where it has none."""
        return class_name(self.names, class_id)


class ComputedWeights(Struct, frozen=True):
    """Weights and the numbers that explain them; arrays have shape [C].

    weights          float64, always finite
    frequency        float64, n/N; 0 for an ignored class
    present          bool, True for a class that is not ignored and has a pixel
    loss_share       float64, p·w/Σp·w; None for a method that does not return class weights
    expected_weight  Σp·w; None for a method that does not return class weights
    beta             the value chosen for `beta=auto`; None otherwise
    without_effect   keys of `multiply` that name an absent or ignored class
    """

    weights: Float64
    frequency: Float64
    present: NDArray[np.bool_]
    loss_share: Float64 | None
    expected_weight: float | None
    beta: float | None = None
    without_effect: tuple[str, ...] = ()


# Overflow is detected at the end, where the message can name the class.
@np.errstate(over="ignore")
def compute_weights(counts: ClassCounts, spec: WeightSpec) -> ComputedWeights:
    """Return the weights of classes 0 … C−1 under a spec.

    Raises `Unanswerable` where no pixel is counted, where the method needs image counts that are missing,
    for absent classes under `absent=error`, and where a weight exceeds float32; `InvalidParameter` where a
    key of `multiply` is not a class.
    """
    spec = spec.resolved()
    method = METHODS[spec.method]
    present = (counts.pixels > 0) & ~counts.ignored
    if not present.any():
        raise Unanswerable(
            "no pixel is counted: the label maps have only ignored or unexpected ids, or no pixels. Check "
            "ignore_index, num_classes and class_map"
        )
    absent = ~present & ~counts.ignored
    if spec.absent == "error" and absent.any():
        names = [counts.name(int(c)) for c in np.flatnonzero(absent)]
        raise Unanswerable(
            f"{part_with_verb(len(names), len(counts.pixels), 'class', 'has', 'have')} no pixels: "
            f"{listed(names)}. Use another value of absent, or a smaller num_classes"
        )
    frequency = np.where(counts.ignored, 0.0, counts.pixels / float(counts.total))
    included = present | absent if spec.absent == "eps" else present
    raw, beta = _METHODS[method.name](_Input.of(counts, frequency, present, included), spec)
    assert spec.strength is not None
    raw = at_strength(raw, spec.strength, method.kind)
    weights = np.zeros(len(counts.pixels))
    if method.kind != "weights":
        if spec.clip is not None:
            raw = raw.clip(*spec.clip)
        weights[present] = raw
        weights[absent] = raw.min()
        return ComputedWeights(_within_float32(weights, counts, spec), frequency, present, None, None)

    shares = np.where(included & absent, EPS, frequency)[included]
    weights[included] = _normalized(raw, shares, str(spec.normalize))
    without_effect = _multiply(weights, included, counts, spec)
    if spec.clip is not None:
        weights[included] = weights[included].clip(*spec.clip)
    if spec.absent == "one":
        weights[absent] = 1.0
    elif spec.absent == "max":
        weights[absent] = weights[present].max()
    weights = _within_float32(weights, counts, spec)
    expected_weight = float((frequency * weights).sum())
    # Scale the largest weight to 1, so that the products of tiny weights do not underflow.
    scaled = frequency * (weights / top) if (top := float(weights.max())) > 0 else frequency
    scaled_sum = scaled.sum()
    loss_share = scaled / scaled_sum if scaled_sum > 0 else np.zeros_like(scaled)
    return ComputedWeights(weights, frequency, present, loss_share, expected_weight, beta, without_effect)


def at_strength(values: Float64, strength: float, kind: Kind) -> Float64:
    """Return values of a method weakened to a strength from 0 (no effect) to 1 (unchanged).

    Factors of a loss become w^strength. What is added to logits is the logarithm of a factor, so it becomes
    strength times as large.
    """
    if strength == 1:
        return values
    return strength * values if kind == "additive" else values**strength


class _Input(Struct, frozen=True):
    """The notation of the module's docstring as float64 arrays over the included classes.

    Included are the present classes and, with `absent=eps`, the absent ones; `present` marks the former.
    """

    n: Float64
    p: Float64
    m: Float64 | None
    o: Float64 | None
    i: Float64 | None
    present: NDArray[np.bool_]
    total: float
    classes: int

    @property
    def others(self) -> Float64:
        """Pixels of all other classes; expectations of a stream can exceed the total by a rounding error."""
        return np.maximum(self.total - self.n, 0.0)

    @classmethod
    def of(
        cls,
        counts: ClassCounts,
        frequency: Float64,
        present: NDArray[np.bool_],
        included: NDArray[np.bool_],
    ) -> _Input:
        is_present = present[included]
        total = float(counts.total)
        images = None
        if counts.images is not None:
            samples = float(counts.images.max() if counts.samples is None else counts.samples)
            images = np.where(is_present, counts.images[included].astype(np.float64), EPS * samples)
        objects = None
        if counts.objects is not None:
            objects = counts.objects[included].astype(np.float64)
            objects = np.where(is_present, objects, EPS * objects.sum())
        return cls(
            n=np.where(is_present, counts.pixels[included].astype(np.float64), EPS * total),
            p=np.where(is_present, frequency[included], EPS),
            m=images,
            o=objects,
            i=None if counts.image_pixels is None else counts.image_pixels[included],
            present=is_present,
            total=total,
            classes=len(counts.pixels),
        )


def _needs_images(what: str) -> Unanswerable:
    return Unanswerable(
        f"{what} needs to know in which images each class occurs, but these counts are totals only. Use "
        "another method"
    )


def _effective_num(x: _Input, spec: WeightSpec) -> tuple[Float64, float | None]:
    if spec.unit == "images":
        if x.m is None:
            raise _needs_images("effective_num with unit=images")
        n = x.m
    elif spec.unit == "objects":
        if x.o is None:
            raise Unanswerable("effective_num with unit=objects needs the number of objects of each class")
        n = x.o
    else:
        n = x.n
    assert isinstance(spec.beta, Beta)
    complement = spec.beta.complement_for(n[x.present])
    chosen = 1.0 - complement if spec.beta.complement is None else None
    return effective_num(n, complement), chosen


def effective_num(n: Float64, complement: float) -> Float64:
    """Return (1−β)/(1−βⁿ) for `complement` = 1−β in (0, 1]; exact also where β itself rounds to 1."""
    if complement == 1.0:
        return np.ones_like(n)
    result: Float64 = complement / -np.expm1(n * math.log1p(-complement))
    return result


def _median_freq(x: _Input, spec: WeightSpec) -> tuple[Float64, None]:
    if x.i is None:
        raise _needs_images(spec.method)
    # Presence is per image: I is the size of the images that contain the class.
    f = np.divide(x.n, x.i, out=np.full_like(x.n, EPS), where=x.present)
    return np.median(f[x.present]) / f, None


def _inverse_freq(x: _Input, _: WeightSpec) -> tuple[Float64, None]:
    return (1.0 / x.p) / x.classes, None


def _power(x: _Input, spec: WeightSpec) -> tuple[Float64, None]:
    assert spec.alpha is not None
    return x.p**-spec.alpha, None


def _enet(x: _Input, spec: WeightSpec) -> tuple[Float64, None]:
    assert spec.c is not None
    # log1p keeps the digits of a small p where c is 1.
    return 1.0 / np.log1p((spec.c - 1.0) + x.p), None


def _log_inv_freq(x: _Input, spec: WeightSpec) -> tuple[Float64, None]:
    assert spec.k is not None
    assert spec.offset is not None
    assert spec.floor is not None
    # ln(1/p) = ln(1 + (N-n)/n) keeps its digits where p is nearly 1.
    logarithm = np.log1p(x.others / x.n)
    raw: Float64 = np.maximum(spec.floor, spec.offset + math.log(spec.k) + logarithm)
    if len(raw) > 1 and not raw.any():
        raise Unanswerable(
            "log_inv_freq gives every class the weight 0, because offset + ln(k/p) is at most 0 for each. "
            "Use a larger k or offset, or a floor above 0"
        )
    return raw, None


def _inverse_eps(x: _Input, spec: WeightSpec) -> tuple[Float64, None]:
    assert spec.epsilon is not None
    return 1.0 / (x.p + spec.epsilon), None


def _linear(x: _Input, spec: WeightSpec) -> tuple[Float64, None]:
    assert spec.upper is not None
    return 1.0 + spec.upper * (1.0 - x.p), None


def _logit_adjustment(x: _Input, spec: WeightSpec) -> tuple[Float64, None]:
    assert spec.tau is not None
    return spec.tau * np.log(x.p), None


_METHODS: dict[str, Any] = {
    "sqrt_inv_freq": lambda x, _: (1.0 / np.sqrt(x.p), None),
    "inverse_freq": _inverse_freq,
    "power": _power,
    "effective_num": _effective_num,
    "median_freq": _median_freq,
    "median_freq_global": lambda x, _: (np.median(x.p[x.present]) / x.p, None),
    "enet": _enet,
    "log_count": lambda x, _: (1.0 / np.log(np.maximum(x.n, 2.0)), None),
    "log_inv_freq": _log_inv_freq,
    "inverse_eps": _inverse_eps,
    "linear": _linear,
    "uniform": lambda x, _: (np.ones_like(x.p), None),
    "logit_adjustment": _logit_adjustment,
    "pos_weight": lambda x, _: (x.others / x.n, None),
}


def _normalized(raw: Float64, shares: Float64, how: str) -> Float64:
    if how == "none":
        return raw
    # Relative to the largest, so that no sum overflows. A single class can have the weight 0: -ln 1.
    relative: Float64 = raw / raw.max() if raw.any() else np.ones_like(raw)
    match how:
        case "mean":
            scale = relative.mean()
        case "sum":
            scale = relative.sum()
        case "min":
            scale = relative.min()
            if scale == 0:
                raise Unanswerable(
                    "normalize=min divides by the smallest weight, but that is 0. Use another value of "
                    "normalize, or a floor above 0"
                )
        case "expected":
            scale = (shares * relative).sum()
        case _:
            return relative
    result: Float64 = relative / scale
    return result


def _multiply(
    weights: Float64, included: NDArray[np.bool_], counts: ClassCounts, spec: WeightSpec
) -> tuple[str, ...]:
    """Multiply in place; return the keys whose class is not included."""
    without_effect = []
    seen: dict[int, str] = {}
    for key, factor in spec.multiply:
        class_id = _class_of(key, counts)
        if class_id in seen:
            raise Inapplicable(
                ("multiply", f"{seen[class_id]} and {key} name the same class; use only one of them")
            )
        seen[class_id] = key
        if included[class_id]:
            weights[class_id] *= factor
        else:
            without_effect.append(key)
    return tuple(without_effect)


def _class_of(key: str, counts: ClassCounts) -> int:
    classes = len(counts.pixels)
    if key.isdecimal() and key.isascii() and int(key) < classes:
        return int(key)
    if counts.names.count(key) == 1 and counts.names.index(key) < classes:
        return counts.names.index(key)
    if counts.names.count(key) > 1:
        raise Inapplicable(("multiply", f"several classes are named {key!r}; use the id instead"))
    hint = nearest(key, counts.names)
    raise Inapplicable(
        ("multiply", f"{key!r} is not a class{hint}; use a class name, or an id from 0 to {classes - 1}")
    )


def _within_float32(weights: Float64, counts: ClassCounts, spec: WeightSpec) -> Float64:
    beyond = ~(np.abs(weights) <= FLOAT32_MAX)
    if beyond.any():
        worst = int(np.flatnonzero(beyond)[0])
        advice = "a smaller parameter"
        if METHODS[spec.method].kind == "weights":
            advice = "clip=lo,hi, smaller factors, or normalize=mean"
        raise Unanswerable(
            f"the weight of {counts.name(worst)} under {spec.method} exceeds the range of float32 "
            f"(at most {FLOAT32_MAX:.3g}). Use {advice}"
        )
    return weights
