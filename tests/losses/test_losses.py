"""The values and gradients of the losses, compared with a plain implementation, and edge cases."""

from __future__ import annotations

import inspect
import math
from collections import UserList
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import statsvc
from statsvc.errors import InvalidParameter
from statsvc.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, TverskyLoss, class_sums
from support.loss_inputs import logits_of, target_of, value_and_gradient, weights_of
from support.reference_losses import reference_losses


def factors(draw: Any, classes: int, values: list[float]) -> Any:
    number = st.sampled_from(values)
    return draw(number | st.lists(number, min_size=classes, max_size=classes))


@st.composite
def loss_calls(draw: Any) -> tuple[Tensor, Tensor, dict[str, Any], int]:
    channels = draw(st.integers(1, 5))
    classes = max(channels, 2)
    space = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    logits = logits_of((draw(st.integers(1, 3)), channels, *space), draw(st.integers(0, 99)))
    ignore_index = draw(st.sampled_from([255, -100, 0, 1, [255, -100], [1, 255, 254], []]))
    target = target_of(logits, draw(st.integers(0, 99)), draw(st.sampled_from([0, 0.3, 0.9])), ignore_index)
    options = {
        "ce_weight": draw(st.sampled_from([0.6, 1.0, 0.0])),
        "dice_weight": draw(st.sampled_from([0.4, 2.0])),
        "smooth": draw(st.sampled_from([1.0, 1e-5, 0.0])),
        "ignore_index": ignore_index,
        "square_denominator": draw(st.booleans()),
        "batch_dice": draw(st.booleans()),
        "include_background": draw(st.booleans()),
        "absent": draw(st.sampled_from(["skip", "penalise"])),
        "kind": draw(st.sampled_from(["weights", "additive"])),
    }
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.1, 1.0]))
    else:
        options["focal_gamma"] = factors(draw, classes, [0.0, 0.5, 2.0])
        options["focal_alpha"] = factors(draw, classes, [0.0, 0.25, 1.0])
    if not options["square_denominator"]:
        options["tversky_alpha"] = factors(draw, classes, [0.0, 0.3, 1.0])
        options["tversky_beta"] = factors(draw, classes, [0.5, 0.7])
        options["tversky_gamma"] = draw(st.sampled_from([0.75, 1.0, 2.0]))
    numbers = st.sampled_from([0.0, 0.25, 1.0, 7.5])
    vectors = st.lists(numbers, min_size=classes, max_size=classes)
    class_weights = draw(vectors if options["kind"] == "additive" else st.none() | vectors)
    return logits, target, options | {"class_weights": class_weights}, draw(st.sampled_from([1 << 20, 60, 5]))


@pytest.mark.filterwarnings("ignore:the target has the values 0 and 255")
@settings(max_examples=150, deadline=None)
@given(loss_calls())
@example(
    (
        torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True),
        torch.zeros(1, 1, dtype=torch.int64),
        {"smooth": 0.0, "tversky_alpha": 0.0, "absent": "penalise"},  # Dice of the absent class is 0 / 0
        1 << 20,
    )
)
def test_value_terms_and_gradient_equal_those_of_the_plain_implementation(
    call: tuple[Tensor, Tensor, dict[str, Any], int],
) -> None:
    logits, target, options, block_size = call
    original, class_sums.CPU_BLOCK = class_sums.CPU_BLOCK, block_size
    try:
        criterion = CombinedLoss(**options)
        value, gradient = value_and_gradient(criterion, logits, target)
    finally:
        class_sums.CPU_BLOCK = original
    loss, ce, dice = reference_losses(logits, target, **options)
    expected = torch.autograd.grad(loss, logits)[0]
    values = [value, criterion.last["loss"], criterion.last["ce"], criterion.last["dice"]]
    torch.testing.assert_close(torch.stack(values), torch.stack([loss, loss, ce, dice]).detach())
    torch.testing.assert_close(gradient, expected)
    assert not any(term.requires_grad for term in criterion.last.values())


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (1, 3, 2, 2, 3)])
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_gradients_equal_finite_differences(shape: tuple[int, ...], square: bool, batch: bool) -> None:
    logits = logits_of(shape)
    target = target_of(logits)
    weights = [0.5, 2.0, 0.0, 1.0][: shape[1]]
    for criterion in (
        CombinedLoss(class_weights=weights, square_denominator=square, batch_dice=batch, label_smoothing=0.2),
        CombinedLoss(focal_gamma=[0.0, 0.5, 2.0, 1.0][: shape[1]], batch_dice=batch, tversky_gamma=0.75),
        DiceLoss(class_weights=weights, square_denominator=square, batch_dice=batch, absent="penalise"),
    ):
        assert torch.autograd.gradcheck(lambda x, c=criterion: c(x, target), logits)
    one_channel, binary = logits_of((shape[0], 1, *shape[2:])), target.where(target == 255, target % 2)
    for criterion in (
        CombinedLoss(class_weights=[0.5, 2], square_denominator=square, batch_dice=batch),
        CrossEntropyLoss(gamma=[0.5, 2], alpha=[0.75, 0.25]),
        CrossEntropyLoss(label_smoothing=0.2),
    ):
        assert torch.autograd.gradcheck(lambda x, c=criterion: c(x, binary), one_channel)


def test_dice_loss_is_the_dice_term_of_the_combined_loss() -> None:
    logits = logits_of((2, 4, 6, 6))
    target = target_of(logits)
    combined = CombinedLoss(ce_weight=0, dice_weight=1)
    for actual, expected in zip(
        value_and_gradient(DiceLoss(), logits, target),
        value_and_gradient(combined, logits, target),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


def tversky_of(logits: Tensor, target: Tensor, alpha: Any, beta: Any, gamma: float) -> Tensor:
    """Return the textbook loss of one sample without absent classes, with smooth = 1."""
    valid = target != 255
    p = logits.softmax(1)[0][:, valid[0]]
    y = torch.nn.functional.one_hot(target[valid], len(p)).T
    tp, fp, fn = (p * y).sum(1), (p * (1 - y)).sum(1), ((1 - p) * y).sum(1)
    tversky = (tp + 0.5) / (tp + torch.tensor(alpha) * fp + torch.tensor(beta) * fn + 0.5)
    return ((1 - tversky) ** gamma).mean()


@pytest.mark.parametrize("alpha", [0.3, [0.1, 0.5, 0.9]])
@pytest.mark.parametrize(("beta", "gamma"), [(0.7, 1.0), ([1.0, 0.0, 2.0], 0.75), (0.5, 2.0)])
def test_tversky_has_the_textbook_form(alpha: Any, beta: Any, gamma: float) -> None:
    logits = logits_of((1, 3, 8, 8))
    target = target_of(logits)
    value, gradient = value_and_gradient(TverskyLoss(alpha=alpha, beta=beta, gamma=gamma), logits, target)
    expected = tversky_of(logits, target, alpha, beta, gamma)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"batch_dice": True, "absent": "penalise"}, {"smooth": 0.0}])
def test_tversky_with_equal_factors_is_dice_loss(options: dict[str, Any]) -> None:
    logits = logits_of((2, 4, 6, 6))
    target = target_of(logits)
    target[0][target[0] == 3] = 0
    options = {"class_weights": [0.0, 1.0, 2.0, 3.0], **options}
    equal = TverskyLoss(alpha=np.float64(0.5), beta=torch.full((4,), 0.5), **options)
    for actual, expected in zip(
        value_and_gradient(equal, logits, target),
        value_and_gradient(DiceLoss(**options), logits, target),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


def test_focal_tversky_is_finite_at_0_and_nan_for_nan() -> None:
    target = torch.tensor([[[0, 1]]])
    perfect = torch.tensor([[[[200.0, -200.0]], [[-200.0, 200.0]]]])
    criterion = TverskyLoss(gamma=0.5)
    value, gradient = value_and_gradient(criterion, perfect, target)
    assert value == 0
    assert gradient.isfinite().all()
    assert criterion(perfect * math.nan, target).isnan()
    assert not value_and_gradient(criterion, perfect, target * 0 + 255)[1].any()
    for options, message in (
        ({"gamma": 0}, "gamma: is 0"),
        ({"alpha": -1}, "alpha: must be a finite number"),
        ({"beta": [1, math.nan]}, "beta: must be a finite number"),
        ({"square_denominator": True}, "square_denominator: is not defined"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            TverskyLoss(**options)
    with pytest.raises(InvalidParameter, match="alpha: has 3 numbers, but the logits have 2 classes"):
        TverskyLoss(alpha=[1, 2, 3])(perfect, target)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0, 0.1]])
def test_cross_entropy_equals_that_of_torch(smoothing: float, weights: list[float] | None) -> None:
    logits = logits_of((2, 4, 6, 6))
    target = target_of(logits)
    vector = None if weights is None else torch.tensor(weights).double()
    theirs = torch.nn.CrossEntropyLoss(vector, ignore_index=255, label_smoothing=smoothing)
    expected = value_and_gradient(theirs, logits, target)
    for ours in (
        CombinedLoss(ce_weight=1, dice_weight=0, class_weights=weights, label_smoothing=smoothing),
        CrossEntropyLoss(class_weights=weights, label_smoothing=smoothing),
    ):
        for actual, wanted in zip(value_and_gradient(ours, logits, target), expected, strict=True):
            torch.testing.assert_close(actual, wanted)


def test_focal_loss_with_gamma_0_is_exactly_cross_entropy() -> None:
    logits = logits_of((2, 3, 5, 5), dtype=torch.float32)
    target = target_of(logits)
    several: list[dict[str, Any]] = [{}, {"class_weights": [1.0, 0.0, 3.0]}]
    for options in several:
        plain = value_and_gradient(CrossEntropyLoss(**options), logits, target)
        gammas: list[Any] = [0, [0, 0, 0]]
        for gamma in gammas:
            focal = CrossEntropyLoss(gamma=gamma, alpha=1, **options)
            assert all(map(torch.equal, value_and_gradient(focal, logits, target), plain))
        one_of_them = CrossEntropyLoss(gamma=[0, 2, 0], alpha=[1, 0, 1], **options)
        without = target.masked_fill(target == 1, 255)
        torch.testing.assert_close(
            value_and_gradient(one_of_them, logits, without),
            value_and_gradient(CrossEntropyLoss(**options), logits, without),
        )


def test_focal_loss_is_finite_for_certain_predictions_of_either_kind() -> None:
    logits = torch.tensor([[[[200.0, -200.0]], [[-200.0, 200.0]]]])
    for correct in (True, False):
        target = torch.tensor([[[0, 1]]] if correct else [[[1, 0]]])
        for x in (logits, logits[:, 1:]):
            for gamma in (0.5, 2):
                value, gradient = value_and_gradient(CrossEntropyLoss(gamma=gamma), x, target)
                assert value == (0 if correct else (400 if x is logits else 200))
                assert gradient.isfinite().all()
                assert bool(gradient.any()) != correct


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_of_one_channel_equals_torchs_for_binary_logits(dtype: torch.dtype) -> None:
    logits = logits_of((2, 1, 6, 5), dtype=dtype)
    target = target_of(torch.zeros(2, 2, 6, 5))

    def theirs(x: Tensor, t: Tensor) -> Tensor:
        pixels = x[:, 0][t != 255]
        return torch.nn.functional.binary_cross_entropy_with_logits(
            pixels, t[t != 255].to(dtype), pos_weight=torch.tensor(3.5, dtype=dtype)
        )

    ours = CrossEntropyLoss(alpha=[1, 3.5])
    for actual, expected in zip(
        value_and_gradient(ours, logits, target), value_and_gradient(theirs, logits, target), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def test_logit_adjustment_from_counts_is_cross_entropy_of_the_adjusted_logits() -> None:
    counts = torch.tensor([1850.0, 140, 10]).double()  # of weights_of
    criterion = CrossEntropyLoss(class_weights=weights_of("logit_adjustment"), kind="additive")
    logits = logits_of((2, 3, 5, 5))
    target = target_of(logits)
    shifted = logits + (counts / counts.sum()).log()[:, None, None]
    expected = torch.nn.functional.cross_entropy(shifted, target, ignore_index=255)
    torch.testing.assert_close(criterion(logits, target), expected, rtol=1e-6, atol=0)


def test_pixels_of_every_ignored_id_have_neither_loss_nor_gradient() -> None:
    logits = logits_of((2, 3, 6, 6))
    target = target_of(logits)
    several = target.clone()
    several[target == 255] = torch.tensor([255, -1, 7])[torch.arange(int((target == 255).sum())) % 3]
    expected = value_and_gradient(CombinedLoss(), logits, target)
    forms: list[Any] = [[255, -1, 7], (7, 255, -1), np.array([-1, 7, 255]), torch.tensor([255, 7, -1])]
    for ids in forms:
        criterion = CombinedLoss(ignore_index=ids)
        assert all(map(torch.equal, value_and_gradient(criterion, logits, several), expected))
        assert torch.equal(criterion.valid_pixels(several), target != 255)
    with pytest.raises(InvalidParameter, match=r"contains -1 .*class ids 0 … 2 or the ignored ids 7, 255\."):
        CombinedLoss(ignore_index=[7, 255])(logits, several)
    with pytest.raises(InvalidParameter, match=r"contains 255 .*expected class ids 0 … 2\. Map"):
        CombinedLoss(ignore_index=[])(logits, target)


def test_last_has_the_dice_loss_of_each_class() -> None:
    logits = logits_of((3, 4, 6, 6))
    target = target_of(logits)
    target[target == 3] = 0
    target[1, target[1] == 2] = 1
    criterion = CombinedLoss()
    criterion(logits, target)
    samples = [CombinedLoss(batch_dice=True) for _ in logits]
    for one, x, t in zip(samples, logits, target, strict=True):
        one(x[None], t[None])
    expected = torch.stack([one.last["dice_per_class"] for one in samples])
    assert expected[1].isnan().tolist() == [False, False, True, True]
    per_class = criterion.last["dice_per_class"]
    torch.testing.assert_close(per_class, expected.nanmean(0), equal_nan=True)
    assert per_class[3].isnan()
    for c in range(3):  # the textbook form, for each sample with the class
        losses = []
        for x, t in zip(logits.softmax(1), target, strict=True):
            p, y = x[c][t != 255], (t[t != 255] == c).double()
            if y.any():
                losses.append(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
        torch.testing.assert_close(per_class[c], torch.stack(losses).mean().detach())


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0]])
def test_every_loss_is_a_term_of_the_combined_loss_and_terms_combine_freely(
    weights: list[float] | None,
) -> None:
    logits = logits_of((2, 4, 6, 6))
    target = target_of(logits)
    common: dict[str, Any] = {"class_weights": weights, "ignore_index": [255, 3]}
    pixel_terms: list[tuple[Any, dict[str, Any]]] = [
        (CrossEntropyLoss(**common), {}),
        (CrossEntropyLoss(gamma=2, alpha=0.25, **common), {"focal_gamma": 2, "focal_alpha": 0.25}),
        (CrossEntropyLoss(label_smoothing=0.1, **common), {"label_smoothing": 0.1}),
    ]
    region_terms: list[tuple[Any, dict[str, Any]]] = [
        (DiceLoss(**common), {}),
        (
            TverskyLoss(gamma=0.75, **common),
            {"tversky_alpha": 0.3, "tversky_beta": 0.7, "tversky_gamma": 0.75},
        ),
    ]
    for first, first_options in pixel_terms:
        for second, second_options in region_terms:
            combined = CombinedLoss(ce_weight=0.3, dice_weight=2, **common, **first_options, **second_options)
            torch.testing.assert_close(
                value_and_gradient(combined, logits, target),
                value_and_gradient(
                    lambda x, t, a=first, b=second: 0.3 * a(x, t) + 2 * b(x, t), logits, target
                ),
            )
            for name in ("ce", "dice", "dice_per_class"):
                source = first if name == "ce" else second
                torch.testing.assert_close(combined.last[name], source.last[name], equal_nan=True)


def test_dice_with_normalized_weights_has_the_textbook_form() -> None:
    logits = logits_of((1, 3, 8, 8))
    target = target_of(logits, ignored=0)
    p, y = logits.softmax(1), torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    weight = torch.tensor([0.2, 0.3, 0.5])
    overlap = (2 * (p * y).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + y.sum((0, 2, 3)) + 1)
    torch.testing.assert_close(DiceLoss(class_weights=weight)(logits, target), 1 - (weight * overlap).sum())


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{}, {"square_denominator": True}, {"absent": "penalise"}])
@pytest.mark.parametrize("where", ["one class", "all classes"])
def test_ignored_pixels_have_neither_loss_nor_gradient_whatever_their_logits(
    poison: float, options: dict[str, Any], where: str
) -> None:
    logits = logits_of((2, 4, 6, 5), dtype=torch.float32)
    target = target_of(logits)
    ignored = (target == 255)[:, None].expand_as(logits).clone()
    if where == "one class":
        ignored[:, 1:] = False
    for criterion in (
        CombinedLoss(**options),
        CombinedLoss(class_weights=[0.0, -1, -2, 3], kind="additive", **options),
    ):
        value, gradient = value_and_gradient(criterion, logits, target)
        poisoned = logits.detach().masked_fill(ignored, poison)
        poisoned_value, poisoned_gradient = value_and_gradient(criterion, poisoned, target)
        assert torch.equal(poisoned_value, value)
        assert torch.equal(poisoned_gradient, gradient)
        assert not gradient[(target == 255)[:, None].expand_as(logits)].any()


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("absent", ["skip", "penalise"])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_without_valid_pixels_or_weights_loss_and_gradient_are_0(
    batch: bool, absent: Any, smooth: float
) -> None:
    logits = logits_of((2, 3, 4, 4))
    all_ignored, valid = torch.full((2, 4, 4), 255), target_of(logits)
    for weights, target in (
        (None, all_ignored),
        ([1.0, 2.0, 3.0], all_ignored),
        ([0.0, 0.0, 0.0], valid),
        ([0.0, 0.0, 1.0], valid.where(valid != 2, 0) if absent == "skip" else all_ignored),
    ):
        criterion = CombinedLoss(class_weights=weights, batch_dice=batch, absent=absent, smooth=smooth)
        value, gradient = value_and_gradient(criterion, logits, target)
        assert value == 0
        assert not gradient.any()
        assert all(criterion.last[name] == 0 for name in ("ce", "dice", "loss"))


NAN_OPTIONS: list[dict[str, Any]] = [
    {},
    *({"class_weights": weights} for weights in ([1.0, 2.0, 3.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0])),
    {"class_weights": [0.0, -1.0, 2.0], "kind": "additive"},
    *({"smooth": smooth, "square_denominator": square} for smooth in (0.0, 1.0) for square in (False, True)),
    {"batch_dice": True},
    {"include_background": False},
    {"absent": "penalise", "batch_dice": True},
    {"ignore_index": 1},
]


@pytest.mark.parametrize("options", NAN_OPTIONS, ids=str)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nan_or_infinite_logits_of_a_valid_pixel_make_the_loss_and_every_term_nan(
    options: dict[str, Any], poison: float
) -> None:
    target = torch.tensor([[[0, 0], [0, 1]], [[1, 0], [2, 2]]])
    one_class, one_pixel = logits_of((2, 3, 2, 2)).detach(), logits_of((2, 3, 2, 2)).detach()
    one_class[0, 2, 0, 1] = poison  # a class that the sample does not contain
    one_pixel[1, :, 0, 1] = poison
    for logits in (one_class, one_pixel, torch.full((2, 3, 2, 2), poison).double()):
        for criterion in (
            DiceLoss(**options),
            CombinedLoss(**options),
            TverskyLoss(**{**options, "square_denominator": False}, gamma=0.75),
            CombinedLoss(ce_weight=0, dice_weight=1, **options),
            CombinedLoss(ce_weight=1, dice_weight=0, **options),
            CombinedLoss(ce_weight=1, dice_weight=0, label_smoothing=0.1, **options),
            CombinedLoss(ce_weight=1, dice_weight=0, focal_gamma=[0, 0.5, 2], **options),
        ):
            value, gradient = value_and_gradient(criterion, logits, target)
            assert value.isnan()
            assert gradient.isnan().any()
            assert all(term.isnan().all() for term in criterion.last.values())
            with torch.no_grad():
                assert criterion(logits, target).isnan()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "options",
    [{}, {"ce_weight": 1, "dice_weight": 0}, {"ce_weight": 0}, {"focal_gamma": 2}, {"label_smoothing": 0.1}],
    ids=str,
)
def test_a_logit_of_one_channel_that_is_not_finite_makes_the_loss_nan_unless_it_is_ignored(
    poison: float, options: dict[str, Any]
) -> None:
    logits = logits_of((2, 1, 3, 4)).detach()
    criterion = CombinedLoss(**options)
    for label in (0, 1):
        target = target_of(torch.zeros(2, 2, 3, 4))
        target[0, 0, 0] = label
        poisoned = logits.clone()
        poisoned[0, 0, 0, 0] = poison
        value, gradient = value_and_gradient(criterion, poisoned, target)
        assert value.isnan()
        assert gradient[0, 0, 0, 0].isnan()
        assert torch.func.grad(lambda x, t=target: criterion(x, t))(poisoned)[0, 0, 0, 0].isnan()
        assert all(criterion.last[name].isnan() for name in ("ce", "dice", "loss"))
        target[0, 0, 0] = 255
        actual = value_and_gradient(criterion, poisoned, target)
        assert all(map(torch.equal, actual, value_and_gradient(criterion, logits, target)))
        assert actual[1][0, 0, 0, 0] == 0


def test_a_factor_of_0_excludes_an_infinite_term() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1] = -math.inf
    criterion = CombinedLoss(ce_weight=0, dice_weight=1)
    value, gradient = value_and_gradient(criterion, logits, torch.tensor([[[0, 1]]]))
    assert criterion.last["ce"] == math.inf
    assert value == criterion.last["dice"]
    assert gradient.isfinite().all()


def test_the_loss_of_an_empty_batch_is_0() -> None:
    for shape in ((0, 3, 4, 4), (2, 3, 0, 4)):
        logits = torch.zeros(shape, requires_grad=True)
        value = CombinedLoss(class_weights=[1, 2, 3])(logits, torch.zeros(shape[0], *shape[2:]).long())
        value.backward()
        assert value == 0


def test_a_sample_without_valid_pixels_is_excluded_from_the_mean() -> None:
    logits = logits_of((2, 3, 4, 4))
    target = target_of(logits)
    target[1] = 255
    torch.testing.assert_close(DiceLoss()(logits, target), DiceLoss()(logits[:1], target[:1]))


def test_an_absent_class_of_high_weight_does_not_suppress_the_others() -> None:
    logits = logits_of((2, 4, 8, 8))
    target = target_of(logits).clamp(max=255)
    target[target == 3] = 0
    weights = [1.0, 1.0, 1.0, 1000.0]
    skipped = DiceLoss(class_weights=weights)
    penalised = DiceLoss(class_weights=weights, absent="penalise")
    assert skipped(logits, target) > 0.3
    gradient = value_and_gradient(skipped, logits, target)[1]
    assert gradient[:, :3].abs().sum() > 0.01
    assert penalised(logits, target) > 0.9  # dominated by the absent class


def test_a_class_of_weight_0_adds_nothing_even_if_its_loss_is_infinite() -> None:
    logits = logits_of((1, 3, 4, 4)).detach()
    logits[:, 2] = -math.inf
    target = torch.arange(16).reshape(1, 4, 4) % 3
    value, gradient = value_and_gradient(CombinedLoss(class_weights=[1, 1, 0]), logits, target)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_targets_of_every_integer_dtype_give_the_same_loss(dtype: torch.dtype) -> None:
    logits = logits_of((2, 4, 6, 6))
    target = target_of(logits, ignore_index=100)
    criterion = CombinedLoss(ignore_index=100)
    expected = value_and_gradient(criterion, logits, target)
    actual = value_and_gradient(criterion, logits, target.to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("values", "named"), [([19, 200], r"19 \(1 pixel\), 200 \(1 pixel\)"), ([-1], "-1"), ([3], "3 ")]
)
def test_the_error_for_an_invalid_target_names_its_value(values: list[int], named: str) -> None:
    logits = logits_of((1, 3, 4, 4))
    target = target_of(logits)
    target.view(-1)[: len(values)] = torch.tensor(values)
    for criterion in (CombinedLoss(), DiceLoss(), CombinedLoss(class_weights=[1, 1, 1])):
        with pytest.raises(
            ValueError, match=rf"^target: contains {named}.*class ids 0 … 2 or the ignored id 255"
        ):
            criterion(logits, target)


def test_the_error_for_many_invalid_targets_names_the_first_ones() -> None:
    with pytest.raises(InvalidParameter, match=r"contains 2 .*, 6 \(1 pixel\), …; expected class ids 0 … 1"):
        CombinedLoss()(torch.zeros(1, 2, 4, 4), torch.arange(16).reshape(1, 4, 4))


def test_the_ignored_id_minus_100_does_not_match_156_in_a_uint8_target() -> None:
    with pytest.raises(InvalidParameter, match="contains 156"):
        CombinedLoss(ignore_index=-100)(torch.zeros(1, 2, 1, 1), torch.tensor([[[156]]], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (
            (2, 3),
            (2,),
            r"logits: are torch.float32 of shape \[2, 3\]; give floating-point \[N, C, \*spatial\]",
        ),
        (
            (2, 1, 4, 4),
            (2, 4, 4),
            "has 3 numbers, but the logits have 2 classes.*one channel has two classes, background and",
        ),
        ((2, 3, 4, 4), (2, 1, 4, 4), r"target: has shape \[2, 1, 4, 4\].*give target.squeeze\(1\)"),
        ((2, 3, 4, 4), (2, 4, 4, 1), r"give target.squeeze\(-1\)"),
        ((2, 3, 4, 4), (2, 3, 4, 4), r"of a one-hot target, give target.argmax\(1\)"),
        ((2, 1, 4, 4), (2, 1, 4, 4), r"give target.squeeze\(1\)"),
        ((3, 4, 4), (4, 4), r"for a single image, give logits\[None\] and target\[None\]"),
        ((2, 3, 4, 4), (2, 4, 5), r"target: has shape .*require \[2, 4, 4\]$"),
        (
            (2, 4, 4, 4),
            (2, 4, 4),
            "class_weights: has 3 numbers, but the logits have 4 classes.*num_classes=4",
        ),
    ],
)
def test_the_error_for_mismatched_shapes_says_what_to_do(
    logits: tuple[int, ...], target: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        CombinedLoss(class_weights=[1, 2, 3])(torch.zeros(logits), torch.zeros(target).long())


def test_numpy_and_tensor_scalars_are_options() -> None:
    plain = CombinedLoss(ce_weight=0.5, dice_weight=2, smooth=1, ignore_index=1)
    options: dict[str, Any] = {"ce_weight": np.float32(0.5), "dice_weight": torch.tensor(2)}
    for ignored in (np.int64(1), torch.tensor(1)):
        assert repr(CombinedLoss(**options | {"smooth": np.float64(1), "ignore_index": ignored})) == repr(
            plain
        )
    rejected: list[Any] = [np.bool_(True), np.float64("nan"), torch.tensor([1.0])]
    for value in rejected:
        with pytest.raises(InvalidParameter, match="smooth: must be a finite number"):
            CombinedLoss(smooth=value)
    with pytest.raises(InvalidParameter, match="ignore_index: must be an integer"):
        CombinedLoss(ignore_index=np.float64(255))  # type: ignore[arg-type]


class ModelOutput(dict[str, Tensor]):
    """As in Transformers: a mapping whose entries are also attributes."""


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            {"out": torch.zeros(1, 3, 4, 4), "aux": 0},
            r"dict has the entries out, aux; give .* output\['out'\]",
        ),
        (ModelOutput(logits=torch.zeros(1, 3, 1, 1)), r"ModelOutput is the output .*give output\.logits"),
        (
            [torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2)],
            r"list has 2 items of shape \[1, 3, 4, 4\], \[1, 3, 2, 2\]; give one of them, or add",
        ),
        (np.zeros((1, 3, 4, 4)), "ndarray is not a tensor; use torch.as_tensor"),
    ],
)
def test_the_error_for_a_model_output_names_its_tensors(output: Any, message: str) -> None:
    for criterion in (DiceLoss(), CombinedLoss()):
        with pytest.raises(InvalidParameter, match=f"^logits: {message}"):
            criterion(output, torch.zeros(1, 4, 4).long())
    with pytest.raises(InvalidParameter, match="target: ndarray is not a tensor"):
        CombinedLoss()(torch.zeros(1, 3, 4, 4), np.zeros((1, 4, 4), int))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_targets_of_other_dtypes_than_integers_are_rejected(dtype: torch.dtype) -> None:
    with pytest.raises(InvalidParameter, match=r"target: is torch\.(float32|bool); give integer class ids"):
        CombinedLoss()(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=dtype))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": -1.0}, "smooth: must be a finite number of at least 0, not -1.0"),
        ({"ce_weight": math.inf}, "ce_weight: must be .* not inf"),
        ({"dice_weight": "0.4"}, "dice_weight: must be .* not '0.4'"),
        ({"ce_weight": 0, "dice_weight": 0}, "ce_weight: is 0 and so is dice_weight"),
        ({"ignore_index": None}, "ignore_index: must be an integer or a list of integers, not None"),
        ({"ignore_index": [255, 1.5]}, "ignore_index: must be an integer or a list of integers, not"),
        ({"square_denominator": "false"}, "square_denominator: must be True or False, not 'false'"),
        ({"batch_dice": 1}, "batch_dice: must be True or False, not 1"),
        ({"include_background": None}, "include_background: must be True or False, not None"),
        ({"tversky_gamma": 0}, "^tversky_gamma: is 0"),
        ({"tversky_alpha": 0, "tversky_beta": [0, 0]}, "^tversky_beta: is 0 and so is alpha"),
        ({"focal_gamma": -1}, "focal_gamma: must be a finite number of at least 0"),
        ({"focal_alpha": [0.5, math.inf]}, "focal_alpha: must be a finite number of at least 0"),
        ({"label_smoothing": 1.5}, "label_smoothing: must be at most 1"),
        ({"label_smoothing": 0.1, "focal_gamma": 2}, "label_smoothing: is not defined for focal loss"),
        ({"label_smoothing": 0.1, "focal_alpha": [1, 2]}, "label_smoothing: is not defined for focal loss"),
        ({"square_denominator": True, "tversky_beta": 0.7}, "square_denominator: is not defined for Tversky"),
        ({"absent": "ignore"}, "absent: must be 'skip' or 'penalise', not 'ignore'"),
        ({"kind": "pos_weight"}, "kind: must be 'weights' or 'additive', not 'pos_weight'"),
        ({"kind": "additive"}, "class_weights: is missing: kind='additive' requires"),
        ({"class_weights": [1.0, math.nan]}, "class_weights: is nan for class 1"),
        ({"class_weights": [1.0, -2.5]}, r"is -2.5 for class 1.*kind='additive'"),
        ({"class_weights": [[1.0]]}, r"has shape \[1, 1\]"),
        ({"class_weights": "uniform"}, "str is not a vector of numbers"),
    ],
)
def test_the_error_for_an_option_out_of_range_names_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        CombinedLoss(**options)


def test_messages_and_text_of_a_loss_have_the_names_of_its_own_options() -> None:
    with pytest.raises(InvalidParameter, match=r"^alpha: has 2 numbers, but the logits have 3 classes"):
        TverskyLoss(alpha=[0.3, 0.4])(torch.zeros(1, 3, 4), torch.zeros(1, 4).long())
    with pytest.raises(InvalidParameter, match=r"^gamma: is 0"):
        TverskyLoss(gamma=0)
    assert str(CrossEntropyLoss(gamma=2)) == "CrossEntropyLoss(gamma=2.0)"
    assert str(TverskyLoss(beta=0.6)) == "TverskyLoss(alpha=0.3, beta=0.6)"
    assert str(CombinedLoss(focal_gamma=2)) == "CombinedLoss(focal_gamma=2.0)"


@pytest.mark.parametrize("channels", [1, 2])
def test_a_mask_whose_foreground_is_the_ignored_id_gives_a_warning(channels: int) -> None:
    logits = logits_of((2, channels, 4, 4))
    mask = torch.zeros(2, 4, 4, dtype=torch.uint8)
    mask[0, 1:3, 1:3] = 255
    with pytest.warns(UserWarning, match="values 0 and 255.*give target // 255"):
        CombinedLoss()(logits, mask)
    with pytest.warns(UserWarning, match="values 0 and 255"):
        torch.func.grad(lambda x: CombinedLoss()(x, mask))(logits.detach())
    valid = mask.clone()
    valid[0, 0, 0] = 1
    for target in (mask // 255, valid, torch.zeros_like(mask), torch.full_like(mask, 255)):
        CombinedLoss()(logits, target)  # pytest makes a warning an error
    CombinedLoss()(logits_of((2, 3, 4, 4)), mask)


def test_a_target_on_another_device_is_named() -> None:
    target = torch.zeros(1, 2, dtype=torch.int64, device="meta")
    with pytest.raises(InvalidParameter, match=r"is on meta, but the logits are on cpu; give target\.to\("):
        CombinedLoss()(torch.zeros(1, 3, 2), target)


def test_ids_and_factors_can_be_any_collection_of_numbers() -> None:
    class Listed(UserList[float]):
        """A list of a configuration library, which is not a `list`."""

    expected = CombinedLoss(ignore_index=[0, 255], focal_gamma=[0.0, 1.0, 2.0])
    options: list[tuple[Any, Any]] = [
        ({0, 255}, (0.0, 1.0, 2.0)),
        (np.array([0, 255]), torch.tensor([0.0, 1.0, 2.0])),
        (Listed([0, 255]), Listed([0.0, 1.0, 2.0])),
        (range(0, 256, 255), range(3)),
    ]
    for ids, gammas in options:
        criterion = CombinedLoss(ignore_index=ids, focal_gamma=gammas)
        assert sorted(criterion.ignored_ids) == [0, 255]
        assert criterion.focal_gamma.equal(expected.focal_gamma)


def test_a_loss_rejects_options_that_only_another_loss_has() -> None:
    for make, option in ((CrossEntropyLoss, "smooth"), (DiceLoss, "gamma"), (TverskyLoss, "label_smoothing")):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            make(**{option: 0.5})
    logits, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long()
    for name in ("gamma", "alpha"):
        with pytest.raises(InvalidParameter, match=f"^{name}: must be a finite number"):
            CrossEntropyLoss(**{name: -1})
        two: dict[str, Any] = {name: [1, 2]}
        with pytest.raises(InvalidParameter, match=f"{name}: has 2 numbers, but the logits have 3 classes"):
            CrossEntropyLoss(**two)(logits, target)


def test_weights_can_be_a_tensor_an_array_a_list_or_class_weights() -> None:
    logits = logits_of((2, 3, 5, 5))
    target = target_of(logits)
    weights = weights_of("sqrt_inv_freq")
    losses = {
        CombinedLoss(class_weights=form)(logits, target).item()
        for form in (weights, weights.tensor(), weights.numpy(), weights.to_list())
    }
    assert len(losses) == 1


def test_changing_the_callers_tensor_does_not_change_the_loss() -> None:
    weights = torch.ones(3)
    criterion = CombinedLoss(class_weights=weights)
    weights[0] = 50
    logits = logits_of((1, 3, 4, 4))
    assert criterion(logits, target_of(logits)) == CombinedLoss()(logits, target_of(logits))


def test_class_weights_of_another_kind_are_rejected() -> None:
    additive, positive = weights_of("logit_adjustment"), weights_of("pos_weight")
    with pytest.raises(
        InvalidParameter, match="logit_adjustment returns numbers of kind additive, not weights"
    ):
        CombinedLoss(class_weights=additive)
    with pytest.raises(InvalidParameter, match="kind additive"):
        DiceLoss(class_weights=additive)
    for kind in ("weights", "additive"):
        with pytest.raises(InvalidParameter, match=r"pos_weight is for torch\.nn\.BCEWithLogitsLoss"):
            CombinedLoss(class_weights=positive, kind=kind)
    with pytest.raises(InvalidParameter, match="kind weights, not additive; remove kind='additive'"):
        CombinedLoss(class_weights=weights_of("uniform"), kind="additive")


def test_additive_weights_are_added_to_the_logits_of_both_terms() -> None:
    logits = logits_of((2, 3, 5, 5))
    target, weights = target_of(logits), weights_of("logit_adjustment")
    log_frequency = np.log(np.array([1850, 140, 10]) / 2000)
    loss = CombinedLoss(class_weights=weights, kind="additive")(logits, target)
    shifted = logits + torch.tensor(log_frequency)[:, None, None]
    torch.testing.assert_close(loss, CombinedLoss()(shifted, target), rtol=1e-6, atol=0)


def test_the_two_lines_of_a_training_script_run_as_documented(capsys: pytest.CaptureFixture[str]) -> None:
    from statsvc import calculate_class_weights
    from statsvc.losses import CombinedLoss

    rng = np.random.default_rng(0)
    train_dst = [(None, rng.choice([*range(19), 255], (16, 16)).astype(np.uint8)) for _ in range(6)]
    device = torch.device("cpu")

    # fmt: off
    class_weights = calculate_class_weights(dataset=train_dst, num_classes=19, device=device, method='sqrt_inv_freq', ignore_index=255)  # noqa: E501
    criterion = CombinedLoss(ce_weight=0.6, dice_weight=0.4, smooth=1.0, ignore_index=255, class_weights=class_weights, square_denominator=False)  # noqa: E501
    # fmt: on

    logits = logits_of((6, 19, 16, 16), dtype=torch.float32)
    target = torch.tensor(np.stack([label for _, label in train_dst]))
    loss, _, _ = reference_losses(logits, target, class_weights=class_weights.tolist())
    torch.testing.assert_close(criterion(logits, target), loss.float())
    assert "sqrt_inv_freq" in capsys.readouterr().out


def test_losses_is_an_attribute_of_statsvc_but_not_part_of_a_star_import() -> None:
    assert statsvc.losses.DiceLoss is DiceLoss
    assert "losses" in dir(statsvc)
    assert "losses" not in statsvc.__all__


def test_the_signature_of_the_combined_loss_includes_the_options_of_every_loss() -> None:
    combined = inspect.signature(CombinedLoss).parameters
    dice = inspect.signature(DiceLoss).parameters
    assert list(combined)[:10] == ["ce_weight", "dice_weight", *dice]
    assert list(inspect.signature(TverskyLoss).parameters) == ["alpha", "beta", "gamma", *dice]
    own = {"gamma", "alpha", "beta"}
    for loss in (CrossEntropyLoss, DiceLoss, TverskyLoss):
        options = inspect.signature(loss).parameters
        assert all(combined[name] == option for name, option in options.items() if name not in own)
    assert all(option.kind is option.KEYWORD_ONLY for option in combined.values())
    assert (combined["ce_weight"].default, combined["dice_weight"].default) == (0.6, 0.4)
    with pytest.raises(TypeError, match="unexpected keyword argument 'smoth'"):
        CombinedLoss(smoth=1)  # type: ignore[call-arg]
