"""What the losses compute, against a plain twin, and the contract that holds at the edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import statsvc
from statsvc import WeightSpec
from statsvc.errors import InvalidParameter
from statsvc.losses import CombinedLoss, DiceLoss, class_sums
from statsvc.sampling.weights import weights_response
from statsvc.weighting.class_weights import ClassWeights
from support.losses_twin import twin
from support.small_tables import table_of


def logits_of(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def target_of(logits: Tensor, seed: int = 0, ignored: float = 0.2, ignore_index: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = logits.shape[:1] + logits.shape[2:]
    target = torch.randint(logits.shape[1], shape, generator=generator)
    return target.masked_fill(torch.rand(shape, generator=generator) < ignored, ignore_index)


def value_and_gradient(criterion: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = criterion(leaf, target)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def weights_of(method: str) -> ClassWeights:
    table = table_of([{0: 900, 1: 90, 2: 10}, {0: 950, 1: 50}], num_classes=3)
    return ClassWeights(weights_response(table, WeightSpec.from_params({"method": method})))


@st.composite
def questions(draw: Any) -> tuple[Tensor, Tensor, dict[str, Any], int]:
    classes = draw(st.integers(2, 5))
    space = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    logits = logits_of((draw(st.integers(1, 3)), classes, *space), draw(st.integers(0, 99)))
    ignore_index = draw(st.sampled_from([255, -100, 0, 1]))
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
    numbers = st.sampled_from([0.0, 0.25, 1.0, 7.5])
    vectors = st.lists(numbers, min_size=classes, max_size=classes)
    given_weights = draw(vectors if options["kind"] == "additive" else st.none() | vectors)
    return logits, target, options | {"class_weights": given_weights}, draw(st.sampled_from([1 << 20, 60, 5]))


@settings(max_examples=150, deadline=None)
@given(questions())
def test_value_terms_and_gradient_are_those_of_the_plain_twin(
    question: tuple[Tensor, Tensor, dict[str, Any], int],
) -> None:
    logits, target, options, block = question
    whole, class_sums.CPU_BLOCK = class_sums.CPU_BLOCK, block
    try:
        criterion = CombinedLoss(**options)
        value, gradient = value_and_gradient(criterion, logits, target)
    finally:
        class_sums.CPU_BLOCK = whole
    loss, ce, dice = twin(logits, target, **options)
    expected = torch.autograd.grad(loss, logits)[0]
    found = [value, criterion.last["loss"], criterion.last["ce"], criterion.last["dice"]]
    torch.testing.assert_close(torch.stack(found), torch.stack([loss, loss, ce, dice]).detach())
    torch.testing.assert_close(gradient, expected)
    assert not any(term.requires_grad for term in criterion.last.values())


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (1, 3, 2, 3, 4)])
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_gradients_agree_with_finite_differences(shape: tuple[int, ...], square: bool, batch: bool) -> None:
    logits = logits_of(shape)
    target = target_of(logits)
    weights = [0.5, 2.0, 0.0, 1.0][: shape[1]]
    for criterion in (
        CombinedLoss(class_weights=weights, square_denominator=square, batch_dice=batch),
        DiceLoss(class_weights=weights, square_denominator=square, batch_dice=batch, absent="penalise"),
    ):
        assert torch.autograd.gradcheck(lambda x, c=criterion: c(x, target), logits)


def test_dice_alone_is_the_dice_term_of_the_sum() -> None:
    logits = logits_of((2, 4, 6, 6))
    target = target_of(logits)
    combined = CombinedLoss(ce_weight=0, dice_weight=1)
    for found, expected in zip(
        value_and_gradient(DiceLoss(), logits, target),
        value_and_gradient(combined, logits, target),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_cross_entropy_is_that_of_torch() -> None:
    logits = logits_of((2, 4, 6, 6))
    target, weight = target_of(logits), torch.tensor([0.5, 3, 1, 0.1])
    ours = CombinedLoss(ce_weight=1, dice_weight=0, class_weights=weight)
    theirs = torch.nn.CrossEntropyLoss(weight.double(), ignore_index=255)
    for found, expected in zip(
        value_and_gradient(ours, logits, target), value_and_gradient(theirs, logits, target), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_with_normalised_weights_dice_is_the_textbook_form() -> None:
    logits = logits_of((1, 3, 8, 8))
    target = target_of(logits, ignored=0)
    p, y = logits.softmax(1), torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    weight = torch.tensor([0.2, 0.3, 0.5])
    overlap = (2 * (p * y).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + y.sum((0, 2, 3)) + 1)
    torch.testing.assert_close(DiceLoss(class_weights=weight)(logits, target), 1 - (weight * overlap).sum())


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{}, {"square_denominator": True}, {"absent": "penalise"}])
@pytest.mark.parametrize("where", ["one class", "all classes"])
def test_an_ignored_pixel_gives_no_loss_and_no_gradient_whatever_its_logits(
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
        poisoned, found = value_and_gradient(criterion, logits.detach().masked_fill(ignored, poison), target)
        assert torch.equal(poisoned, value)
        assert torch.equal(found, gradient)
        assert not gradient[(target == 255)[:, None].expand_as(logits)].any()


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("absent", ["skip", "penalise"])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_nothing_to_learn_from_is_a_finite_0_with_zero_gradient(
    batch: bool, absent: Any, smooth: float
) -> None:
    logits = logits_of((2, 3, 4, 4))
    nothing, something = torch.full((2, 4, 4), 255), target_of(logits)
    for weights, target in (
        (None, nothing),
        ([1.0, 2.0, 3.0], nothing),
        ([0.0, 0.0, 0.0], something),
        ([0.0, 0.0, 1.0], something.where(something != 2, 0) if absent == "skip" else nothing),
    ):
        criterion = CombinedLoss(class_weights=weights, batch_dice=batch, absent=absent, smooth=smooth)
        value, gradient = value_and_gradient(criterion, logits, target)
        assert value == 0
        assert not gradient.any()
        assert all(term == 0 for term in criterion.last.values())


def test_an_empty_batch_has_loss_0() -> None:
    for shape in ((0, 3, 4, 4), (2, 3, 0, 4)):
        logits = torch.zeros(shape, requires_grad=True)
        value = CombinedLoss(class_weights=[1, 2, 3])(logits, torch.zeros(shape[0], *shape[2:]).long())
        value.backward()
        assert value == 0


def test_a_sample_without_valid_pixels_leaves_the_mean_of_the_others() -> None:
    logits = logits_of((2, 3, 4, 4))
    target = target_of(logits)
    target[1] = 255
    torch.testing.assert_close(DiceLoss()(logits, target), DiceLoss()(logits[:1], target[:1]))


def test_an_absent_class_does_not_switch_the_others_off() -> None:
    logits = logits_of((2, 4, 8, 8))
    target = target_of(logits).clamp(max=255)
    target[target == 3] = 0
    weights = [1.0, 1.0, 1.0, 1000.0]
    skipped = DiceLoss(class_weights=weights)
    three = DiceLoss(class_weights=weights, absent="penalise")
    assert skipped(logits, target) > 0.3
    gradient = value_and_gradient(skipped, logits, target)[1]
    assert gradient[:, :3].abs().sum() > 0.01
    assert three(logits, target) > 0.9  # the absent class is nearly all of it


def test_a_class_of_weight_0_adds_nothing_even_where_its_loss_is_infinite() -> None:
    logits = logits_of((1, 3, 4, 4)).detach()
    logits[:, 2] = -math.inf
    target = torch.arange(16).reshape(1, 4, 4) % 3
    value, gradient = value_and_gradient(CombinedLoss(class_weights=[1, 1, 0]), logits, target)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_every_integer_dtype_of_targets_gives_the_same(dtype: torch.dtype) -> None:
    logits = logits_of((2, 4, 6, 6))
    target = target_of(logits, ignore_index=100)
    criterion = CombinedLoss(ignore_index=100)
    expected = value_and_gradient(criterion, logits, target)
    found = value_and_gradient(criterion, logits, target.to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("values", "named"), [([19, 200], r"19 \(1 pixels\), 200 \(1 pixels\)"), ([-1], "-1"), ([3], "3 ")]
)
def test_a_target_that_is_no_class_is_refused_by_its_value(values: list[int], named: str) -> None:
    logits = logits_of((1, 3, 4, 4))
    target = target_of(logits)
    target.view(-1)[: len(values)] = torch.tensor(values)
    for criterion in (CombinedLoss(), DiceLoss(), CombinedLoss(class_weights=[1, 1, 1])):
        with pytest.raises(ValueError, match=rf"^target: holds {named}.*no class of 3.*ignored id 255"):
            criterion(logits, target)


def test_many_wrong_targets_are_named_in_short() -> None:
    with pytest.raises(InvalidParameter, match=r"holds 2 .*, 6 \(1 pixels\), …: no class of 2"):
        CombinedLoss()(torch.zeros(1, 2, 4, 4), torch.arange(16).reshape(1, 4, 4))


def test_an_ignored_id_of_minus_100_is_not_156_among_bytes() -> None:
    with pytest.raises(InvalidParameter, match="holds 156"):
        CombinedLoss(ignore_index=-100)(torch.zeros(1, 2, 1, 1), torch.tensor([[[156]]], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (
            (2, 3),
            (2,),
            r"logits: are torch.float32 of shape \[2, 3\]; give floating point \[N, C, \*spatial\]",
        ),
        ((2, 1, 4, 4), (2, 4, 4), "logits: have one class"),
        ((2, 3, 4, 4), (2, 1, 4, 4), r"target: has shape \[2, 1, 4, 4\].*target.squeeze\(1\) has it"),
        ((2, 3, 4, 4), (2, 4, 5), r"target: has shape .*need \[2, 4, 4\]$"),
        ((2, 4, 4, 4), (2, 4, 4), "class_weights: has 3 numbers, but the logits 4 classes.*num_classes=4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_what_to_do(
    logits: tuple[int, ...], target: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        CombinedLoss(class_weights=[1, 2, 3])(torch.zeros(logits), torch.zeros(target).long())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_targets_that_are_no_integers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(InvalidParameter, match=r"target: is torch\.(float32|bool); give class ids"):
        CombinedLoss()(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=dtype))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": -1.0}, "smooth: -1.0 is no finite number"),
        ({"ce_weight": math.inf}, "ce_weight: inf"),
        ({"dice_weight": "0.4"}, "dice_weight: '0.4'"),
        ({"ce_weight": 0, "dice_weight": 0}, "ce_weight: is 0, and dice_weight too"),
        ({"ignore_index": None}, "ignore_index: None is no id"),
        ({"absent": "ignore"}, "absent: 'ignore' is neither"),
        ({"kind": "pos_weight"}, "kind: 'pos_weight' is neither"),
        ({"kind": "additive"}, "class_weights: kind='additive' needs"),
        ({"class_weights": [1.0, math.nan]}, "class_weights: is nan for class 1"),
        ({"class_weights": [1.0, -2.5]}, r"is -2.5 for class 1.*kind='additive'"),
        ({"class_weights": [[1.0]]}, r"has shape \[1, 1\]"),
        ({"class_weights": "uniform"}, "str is no vector of numbers"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        CombinedLoss(**options)


def test_weights_are_taken_as_tensor_array_list_and_answer() -> None:
    logits = logits_of((2, 3, 5, 5))
    target = target_of(logits)
    weights = weights_of("sqrt_inv_freq")
    found = {
        CombinedLoss(class_weights=given)(logits, target).item()
        for given in (weights, weights.tensor(), weights.numpy(), weights.to_list())
    }
    assert len(found) == 1


def test_the_tensor_that_was_given_stays_the_callers() -> None:
    weights = torch.ones(3)
    criterion = CombinedLoss(class_weights=weights)
    weights[0] = 50
    logits = logits_of((1, 3, 4, 4))
    assert criterion(logits, target_of(logits)) == CombinedLoss()(logits, target_of(logits))


def test_numbers_for_the_logits_are_refused_unless_asked_for() -> None:
    additive, positive = weights_of("logit_adjustment"), weights_of("pos_weight")
    with pytest.raises(
        InvalidParameter, match="logit_adjustment gives numbers of kind additive, not weights"
    ):
        CombinedLoss(class_weights=additive)
    with pytest.raises(InvalidParameter, match="kind additive"):
        DiceLoss(class_weights=additive)
    for kind in ("weights", "additive"):
        with pytest.raises(InvalidParameter, match=r"pos_weight is for torch\.nn\.BCEWithLogitsLoss"):
            CombinedLoss(class_weights=positive, kind=kind)
    with pytest.raises(InvalidParameter, match="kind weights, not additive: leave kind='additive' away"):
        CombinedLoss(class_weights=weights_of("uniform"), kind="additive")


def test_logit_adjustment_is_added_to_the_logits_of_both_terms() -> None:
    logits = logits_of((2, 3, 5, 5))
    target, weights = target_of(logits), weights_of("logit_adjustment")
    shares = np.log(np.array([1850, 140, 10]) / 2000)
    found = CombinedLoss(class_weights=weights, kind="additive")(logits, target)
    shifted = logits + torch.tensor(shares)[:, None, None]
    torch.testing.assert_close(found, CombinedLoss()(shifted, target), rtol=1e-6, atol=0)


def test_the_two_lines_of_a_training_script_run_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
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
    loss, _, _ = twin(logits, target, class_weights=class_weights.tolist())
    torch.testing.assert_close(criterion(logits, target), loss.float())
    assert "sqrt_inv_freq" in capsys.readouterr().out


def test_losses_are_an_attribute_of_statsvc_and_no_part_of_a_star_import() -> None:
    assert statsvc.losses.DiceLoss is DiceLoss
    assert "losses" in dir(statsvc)
    assert "losses" not in statsvc.__all__
