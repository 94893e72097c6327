"""The samplers: which images each draws how often, its parameters and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from statsvc.weighting.methods import Parameter


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to draw images unevenly.

    formula   how often image i is drawn, in terms of n (pixels of a class in an image), p, f and w
    stream    True where weights can be asked for of what it draws (`GET /weights?sampler=`)
    """

    name: str
    formula: str
    summary: str
    reference: str
    parameters: tuple[Parameter, ...] = ()
    stream: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, for `GET /samplers`."""
        return {
            "name": self.name,
            "formula": self.formula,
            "summary": self.summary,
            "parameters": [
                {
                    "name": parameter.name,
                    "default": parameter.default,
                    "range": parameter.range,
                    "description": parameter.description,
                }
                for parameter in self.parameters
            ],
            "reference": self.reference,
            "stream": self.stream,
        }


MIN_PIXELS = 3000
"""DAFormer's `min_pixels`, for images as large as `FULL_SIZE` and larger."""

FULL_SIZE = 1024 * 512
"""Pixels of the images that `MIN_PIXELS` was chosen for: Cityscapes as DAFormer trains on it."""

_SCHEMES = (
    Scheme(
        "rare_class",
        "q_i = sum over c with n_ic >= min_pixels of P(c)/E_c, P = softmax((1-p)/temperature)",
        "A class first, rare ones more often, then one of the E_c images with at least min_pixels of it.",
        "Hoyer et al., DAFormer, CVPR 2022 (rare class sampling)",
        (
            Parameter(
                "temperature", 0.01, "the smaller, the more often the rarest class", 0, low_inclusive=False
            ),
            Parameter(
                "min_pixels",
                "auto",
                f"an image counts for a class from so many pixels on; auto: {MIN_PIXELS}, and less in "
                "proportion where images are smaller than 1024x512 on average",
                1,
            ),
        ),
    ),
    Scheme(
        "repeat_factor",
        "q_i proportional to r_i = max over c in i of max(1, sqrt(threshold/f_c))",
        "Each image once, and images with a class that few images have more than once.",
        "Gupta et al., LVIS, CVPR 2019; Mahajan et al., ECCV 2018",
        (
            Parameter(
                "threshold",
                0.001,
                "images with a class that a smaller share f of the images has are repeated",
                0,
                1,
                low_inclusive=False,
                high_inclusive=True,
            ),
        ),
    ),
    Scheme(
        "image_weights",
        "q_i proportional to the mean of w over the counted pixels of i",
        "Images in proportion to the mean class weight of their pixels; takes the parameters of weights.",
        "torch.utils.data.WeightedRandomSampler takes such weights, up to 2^24 of them",
        stream=False,
    ),
)

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in _SCHEMES}
"""Every sampler by name."""

STREAMS = tuple(scheme.name for scheme in _SCHEMES if scheme.stream)
"""The samplers whose stream can be weighted."""

OWNER: dict[str, Scheme] = {parameter.name: scheme for scheme in _SCHEMES for parameter in scheme.parameters}
"""The sampler that each sampler parameter belongs to."""


def describe() -> list[dict[str, Any]]:
    """Return every sampler with formula, parameters, ranges and reference, as JSON."""
    return [scheme.to_dict() for scheme in _SCHEMES]
