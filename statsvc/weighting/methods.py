"""The weighting methods: formula, parameters and ranges of each, and where it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["weights", "additive", "pos_weight"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A method's parameter: a number in a range, or one of `choices`.

    default         None where it must be given
    low, high       the range; `low_inclusive` and `high_inclusive` say whether its ends belong
    """

    name: str
    default: float | str | None
    description: str
    low: float = -math.inf
    high: float = math.inf
    low_inclusive: bool = True
    high_inclusive: bool = False
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The range as text, for instance `[0, 1)`, or the choices."""
        if self.choices:
            return ", ".join(self.choices)
        low = "-∞" if self.low == -math.inf else f"{self.low:g}"
        high = "∞" if self.high == math.inf else f"{self.high:g}"
        return f"{'[' if self.low_inclusive else '('}{low}, {high}{']' if self.high_inclusive else ')'}"

    def contains(self, value: float) -> bool:
        """Whether a finite number lies in the range."""
        above = value >= self.low if self.low_inclusive else value > self.low
        below = value <= self.high if self.high_inclusive else value < self.high
        return above and below


@dataclass(frozen=True, slots=True)
class Method:
    """A weighting method.

    kind          "weights": multiplies the loss; "additive": added to the logits;
                  "pos_weight": for a binary loss per class
    formula       before normalising, in terms of n, N, p, I, m and C
    needs_images  True where totals alone do not do: it asks in which images a class occurs
    of_shares     False where it needs amounts, which a stream of drawn samples does not have
    """

    name: str
    formula: str
    summary: str
    reference: str = ""
    parameters: tuple[Parameter, ...] = ()
    kind: Kind = "weights"
    needs_images: bool = False
    of_shares: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, for `GET /methods`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "formula": self.formula,
            "summary": self.summary,
            "parameters": [
                {
                    "name": parameter.name,
                    "default": parameter.default,
                    "required": parameter.default is None,
                    "range": parameter.range,
                    "description": parameter.description,
                }
                for parameter in self.parameters
            ],
            "reference": self.reference,
            "needs_images": self.needs_images,
        }


DEFAULT = "sqrt_inv_freq"

_BETA = Parameter(
    "beta",
    0.9999,
    "how much of the data is new; also written 1-1e-7, and auto for 1 − 1/median of n in the unit",
    low=0,
    high=1,
)
_UNIT = Parameter("unit", "pixels", "what n counts; images needs image counts", choices=("pixels", "images"))

_METHODS = (
    Method(DEFAULT, "1/sqrt(p)", "Inverse square root of the share of pixels: a gentle default."),
    Method(
        "inverse_freq",
        "N/(C*n)",
        "Inverse share of pixels: every class gets the same part of the loss.",
        "scikit-learn, class_weight='balanced'",
    ),
    Method(
        "power",
        "p^-alpha",
        "Between uniform (alpha 0), inverse square root (0.5) and inverse (1), and beyond.",
        parameters=(
            Parameter("alpha", None, "exponent: 0 is uniform, 1 is inverse", 0, 4, high_inclusive=True),
        ),
    ),
    Method(
        "effective_num",
        "(1-beta)/(1-beta^n)",
        "Inverse effective number of samples, with n in pixels or in images.",
        "Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019",
        (_BETA, _UNIT),
        of_shares=False,
    ),
    Method(
        "median_freq",
        "median(f)/f, f = n/I",
        "Median frequency balancing: f is the class's share in the images that contain it.",
        "Eigen & Fergus, ICCV 2015; SegNet, Badrinarayanan et al., PAMI 2017",
        needs_images=True,
    ),
    Method(
        "median_freq_global",
        "median(p)/p",
        "Median over share, of all pixels: what many scripts compute as median frequency.",
    ),
    Method(
        "enet",
        "1/ln(c + p)",
        "Bounded inverse logarithm of the share of pixels.",
        "Paszke et al., ENet, 2016; ERFNet uses c 1.10 for its decoder and 1.20 for its encoder",
        (Parameter("c", 1.02, "the smaller, the larger a rare class's weight", low=1),),
    ),
    Method(
        "log_count",
        "1/ln(max(n, 2))",
        "Inverse logarithm of the number of pixels: weights that hardly differ.",
        "OCNet and HRNet lists for Cityscapes (openseg-group/OCNet.pytorch#14)",
        of_shares=False,
    ),
    Method(
        "inverse_eps",
        "1/(p + epsilon)",
        "Inverse share of pixels, bounded by 1/epsilon.",
        "SemanticKITTI, Behley et al., ICCV 2019 (0.001); RandLA-Net, Hu et al., CVPR 2020 (0.02)",
        (Parameter("epsilon", 0.001, "added to the share of pixels", low=0, low_inclusive=False),),
    ),
    Method(
        "linear",
        "1 + upper*(1-p)",
        "From 1 to 1 + upper, linear in the share of pixels.",
        "NVIDIA semantic-segmentation",
        (Parameter("upper", 1.0, "how much a class without pixels would get beyond 1", low=0),),
    ),
    Method("uniform", "1", "The same weight for every class."),
    Method(
        "logit_adjustment",
        "tau*ln(p)",
        "Not a weight: added to the logits in the training loss, or subtracted from them post hoc.",
        "Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021",
        (Parameter("tau", 1.0, "temperature", low=0, low_inclusive=False),),
        kind="additive",
    ),
    Method(
        "pos_weight",
        "(N-n)/n",
        "Not a class weight: pos_weight of torch.nn.BCEWithLogitsLoss, one class against the rest.",
        "PyTorch, torch.nn.BCEWithLogitsLoss",
        kind="pos_weight",
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _METHODS}
"""Every method by name."""

OWNER: dict[str, Method] = {parameter.name: method for method in _METHODS for parameter in method.parameters}
"""The method that each method parameter belongs to."""


def describe() -> list[dict[str, Any]]:
    """Return every method with formula, parameters, ranges and reference, as JSON."""
    return [method.to_dict() for method in _METHODS]
