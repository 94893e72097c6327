"""The weighting methods: formula, meaning and origin of each.

Their parameters are in `statsvc.weighting.parameters`, their arithmetic in `statsvc.weighting.compute`.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["weights", "additive", "pos_weight"]


class Method(Struct, frozen=True):
    """A weighting method.

    kind                   "weights": multiplies the loss; "additive": added to the logits;
                           "pos_weight": for a binary loss per class
    formula                before normalization, in terms of n, N, p, I, m and C, see
                           `statsvc.weighting.compute`
    needs_images           True where it depends on the images in which a class occurs, not on totals alone
    needs_absolute_counts  True where shares are not enough; such a method cannot weight a stream
    """

    name: str
    formula: str
    summary: str
    reference: str = ""
    kind: Kind = "weights"
    needs_images: bool = False
    needs_absolute_counts: bool = False

    def unusable_for_streams(self) -> str:
        """Return why a method that needs absolute counts cannot weight a stream, and what to do instead."""
        return (
            f"{self.name} depends on the amount of distinct data in each class, but a stream has only "
            "shares: drawing an image again adds no data. Use a method that depends on shares, such as "
            "sqrt_inv_freq, or remove sampler, crop and the shares of datasets from the request"
        )


DEFAULT = "sqrt_inv_freq"

_METHODS = (
    Method(DEFAULT, "1/sqrt(p)", "Inverse square root of the share of pixels: a moderate default."),
    Method(
        "inverse_freq",
        "N/(C*n)",
        "Inverse share of pixels: every class contributes the same part of the loss.",
        "scikit-learn, class_weight='balanced'",
    ),
    Method(
        "power",
        "p^-alpha",
        "Covers uniform (alpha 0), inverse square root (0.5), inverse frequency (1) and everything between.",
    ),
    Method(
        "effective_num",
        "(1-beta)/(1-beta^n)",
        "Inverse effective number of samples, with n in pixels or in images.",
        "Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019",
        needs_absolute_counts=True,
    ),
    Method(
        "median_freq",
        "median(f)/f, f = n/I",
        "Median frequency balancing: f is the class's share of the images that contain it.",
        "Eigen & Fergus, ICCV 2015; SegNet, Badrinarayanan et al., PAMI 2017",
        needs_images=True,
    ),
    Method(
        "median_freq_global",
        "median(p)/p",
        "Median share over share, of all pixels: what many scripts call median frequency.",
    ),
    Method(
        "enet",
        "1/ln(c + p)",
        "Bounded inverse logarithm of the share of pixels.",
        "Paszke et al., ENet, 2016; ERFNet uses c 1.10 for its decoder and 1.20 for its encoder",
    ),
    Method(
        "log_count",
        "1/ln(max(n, 2))",
        "Inverse logarithm of the number of pixels: weights that differ little.",
        "OCNet and HRNet lists for Cityscapes (openseg-group/OCNet.pytorch#14)",
        needs_absolute_counts=True,
    ),
    Method(
        "log_inv_freq",
        "max(floor, offset + ln(k/p))",
        "Logarithm of the inverse share of pixels: -ln p by default.",
        "1 + ln(1/p) is offset 1; the create_class_weight snippet of Keras users is k 0.15 with floor 1",
    ),
    Method(
        "inverse_eps",
        "1/(p + epsilon)",
        "Inverse share of pixels, bounded by 1/epsilon.",
        "SemanticKITTI, Behley et al., ICCV 2019 (0.001); RandLA-Net, Hu et al., CVPR 2020 (0.02)",
    ),
    Method(
        "linear",
        "1 + upper*(1-p)",
        "From 1 to 1 + upper, linear in the share of pixels.",
        "NVIDIA semantic-segmentation",
    ),
    Method("uniform", "1", "The same weight for every class."),
    Method(
        "logit_adjustment",
        "tau*ln(p)",
        "Not a weight: added to the logits in the training loss, or subtracted from them post hoc.",
        "Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021",
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
