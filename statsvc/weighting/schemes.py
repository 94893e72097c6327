"""The samplers: how often each draws an image, and where it comes from.

Their parameters are in `statsvc.weighting.parameters`, their arithmetic in `statsvc.sampling.scores`.
"""

from __future__ import annotations

from msgspec import Struct


class Scheme(Struct, frozen=True):
    """A way to draw images unevenly.

    formula   how often image i is drawn, in terms of n (pixels of a class in an image), p, f and w
    stream    True where class weights can be computed for what it draws (`GET /weights?sampler=`)
    """

    name: str
    formula: str
    summary: str
    reference: str
    stream: bool = True


MIN_PIXELS = 3000
"""DAFormer's `min_pixels`, for images of `FULL_SIZE` or more pixels."""

FULL_SIZE = 1024 * 512
"""Pixels of the images that `MIN_PIXELS` was chosen for: Cityscapes as DAFormer trains on it."""

_SCHEMES = (
    Scheme(
        "rare_class",
        "q_i = sum over c with n_ic >= min_pixels of P(c)/E_c, P = softmax((1-p)/temperature)",
        "Draws a class, rare ones more often, then one of the E_c images with at least min_pixels of it.",
        "Hoyer et al., DAFormer, CVPR 2022 (rare class sampling)",
    ),
    Scheme(
        "repeat_factor",
        "q_i proportional to r_i = max over c in i of max(1, sqrt(threshold/f_c))",
        "Draws each image once, and images with a class that few images contain more than once.",
        "Gupta et al., LVIS, CVPR 2019; Mahajan et al., ECCV 2018; with the share of objects: Yaman et al., "
        "Instance-Aware Repeat Factor Sampling, 2023",
    ),
    Scheme(
        "image_weights",
        "q_i proportional to the mean of w over the counted pixels of i",
        "Draws images in proportion to the mean class weight of their pixels; takes the parameters of "
        "class weights.",
        "torch.utils.data.WeightedRandomSampler takes such weights, up to 2^24 of them",
        stream=False,
    ),
)

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in _SCHEMES}
"""Every sampler by name."""

STREAMS = tuple(scheme.name for scheme in _SCHEMES if scheme.stream)
"""The samplers whose stream can be weighted."""
