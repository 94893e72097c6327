"""The losses with one term of `CombinedLoss`: cross-entropy, Dice and Tversky."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from statsvc.losses.arguments import factors, positive
from statsvc.losses.modules import CombinedLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    from statsvc.losses.modules import Factors

Constructor = TypeVar("Constructor", bound="Callable[..., None]")


def _options(*names: str) -> Callable[[Constructor], Constructor]:
    """Replace `**options` of a constructor by these options of `CombinedLoss`; others raise `TypeError`."""

    def with_options(init: Constructor) -> Constructor:
        parameters = list(inspect.signature(init).parameters.values())[:-1]
        known = inspect.signature(CombinedLoss.__init__).parameters
        signature = inspect.Signature([*parameters, *(known[name] for name in names)])

        @functools.wraps(init)
        def checked(self: CombinedLoss, **options: Any) -> None:
            signature.bind(self, **options)
            init(self, **options)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return with_options


_COMMON = ("ignore_index", "class_weights", "kind")
_DICE = (
    "smooth",
    "ignore_index",
    "class_weights",
    "square_denominator",
    "batch_dice",
    "include_background",
    "absent",
    "kind",
)


class CrossEntropyLoss(CombinedLoss):
    """Cross-entropy and focal loss (Lin et al. 2017), the first term of `CombinedLoss`.

    gamma            its `focal_gamma`: 0 is cross-entropy, 2 a common choice for focal loss
    alpha            its `focal_alpha`. With one channel, alpha=[1, w] is pos_weight=w of
                     `torch.nn.BCEWithLogitsLoss`, and [1 − a, a] is α = a of the usual focal loss
    label_smoothing  as in `torch.nn.CrossEntropyLoss`
    options          as in `CombinedLoss`

    For logit adjustment (Menon et al. 2021), pass the answer of the method `logit_adjustment` as
    `class_weights`, with kind='additive'.
    """

    _prefix = "focal_"

    @_options(*_COMMON)
    def __init__(
        self, *, gamma: Factors = 0.0, alpha: Factors = 1.0, label_smoothing: float = 0.0, **options: Any
    ) -> None:
        super().__init__(
            ce_weight=1,
            dice_weight=0,
            focal_gamma=factors("gamma", gamma),
            focal_alpha=factors("alpha", alpha),
            label_smoothing=label_smoothing,
            **options,
        )


class DiceLoss(CombinedLoss):
    """Dice loss, the second term of `CombinedLoss`.

    options  as in `CombinedLoss`
    """

    @_options(*_DICE)
    def __init__(self, **options: Any) -> None:
        super().__init__(ce_weight=0, dice_weight=1, **options)


class TverskyLoss(CombinedLoss):
    """Tversky and focal Tversky loss (Salehi et al. 2017; Abraham and Khan 2019): Dice with α, β and γ.

    alpha    factor of false positives, at least 0: a number, or one for each class
    beta     factor of false negatives, likewise. A larger beta than alpha favors recall
    gamma    exponent, above 0. Above 1 it gives classes that are segmented badly more influence
    options  as in `CombinedLoss`; square_denominator is an error unless alpha = beta = 0.5

    With alpha = beta = 0.5 and gamma = 1 it is `DiceLoss`. Other definitions use half of `smooth`, and an
    exponent of 1/γ for the γ of Abraham and Khan.
    """

    _prefix = "tversky_"

    @_options(*_DICE)
    def __init__(
        self, *, alpha: Factors = 0.3, beta: Factors = 0.7, gamma: float = 1.0, **options: Any
    ) -> None:
        super().__init__(
            ce_weight=0,
            dice_weight=1,
            tversky_alpha=factors("alpha", alpha),
            tversky_beta=factors("beta", beta),
            tversky_gamma=positive("gamma", gamma),
            **options,
        )
