"""The provenance of class weights in checkpoints, through the tools that average, cast and shard them."""

from __future__ import annotations

import importlib
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from statsvc.losses import CombinedLoss
from statsvc.losses.weighting import RECORD_SIZE, packed, unpacked
from statsvc.weighting.class_weights import ClassWeights
from support.loss_inputs import weights_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "loss.provenance_record"


def model_with(class_weights: Any) -> nn.ModuleDict:
    return nn.ModuleDict({"head": nn.Conv2d(3, 3, 1), "loss": CombinedLoss(class_weights=class_weights)})


def version(number: int | None) -> ClassWeights:
    return ClassWeights({**weights_of("sqrt_inv_freq").to_dict(), "version": number})


def load_without_warning(model: nn.Module, state: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(state)


def changed(state: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {key: change(value) for key, value in state.items()}


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "half": lambda value: value.half(),
    "bfloat16": lambda value: value.bfloat16(),
    "mean of three": lambda value: torch.stack([value.float()] * 3).sum(0) / 3,
    "decayed mean that is rounded down": lambda value: (0.9 * value + 0.0999 * value).to(value.dtype),
    "numbers of another dtype": lambda value: value.double() if value.ndim == 1 else value,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_cast_or_averaged_checkpoint_loads_and_its_provenance_is_still_compared(
    change: Callable[[Tensor], Tensor],
) -> None:
    state = changed(model_with(version(3)).state_dict(), change)
    load_without_warning(model_with(version(3)), state)
    other = model_with(version(4))
    with pytest.warns(UserWarning, match=r"sqrt_inv_freq of demo version 3, now .* version 4 \(version ch"):
        other.load_state_dict(state)
    assert other.state_dict()[KEY].equal(model_with(version(4)).state_dict()[KEY])


def test_a_record_that_cannot_be_read_does_not_stop_loading() -> None:
    first, second = (model_with(weights_of(method)).state_dict() for method in ("enet", "inverse_freq"))
    unreadable: list[Any] = [
        (first[KEY].float() + second[KEY].float()) / 2,
        torch.full((5,), torch.nan),
        torch.zeros(0),
        torch.rand(3, 4),
        packed(None),
        None,
    ]
    for record in unreadable:
        load_without_warning(model_with(weights_of("enet")), first | {KEY: record})
    load_without_warning(model_with(weights_of("enet")), {key: first[key] for key in first if key != KEY})


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0], version(3), "a long spec"])
def test_every_entry_of_a_checkpoint_is_a_tensor_of_constant_size(weights: Any) -> None:
    if weights == "a long spec":
        rng = np.random.default_rng(0)
        spec = {"multiply": {f"class {k}": float(rng.random()) for k in range(500)}}
        weights = ClassWeights({**weights_of("enet").to_dict(), "spec": spec})
        assert unpacked(CombinedLoss(class_weights=weights).state_dict()["provenance_record"]) is not None
    state = model_with(weights).state_dict()
    assert set(state) == {"head.weight", "head.bias", KEY}
    assert (state[KEY].shape, state[KEY].dtype) == ((RECORD_SIZE,), torch.uint8)
    load_without_warning(model_with(weights), state)


def test_a_checkpoint_with_the_former_entry_loads_and_is_compared() -> None:
    old = dict(CombinedLoss(class_weights=version(3)).provenance or {})
    text = torch.tensor(list(json.dumps(old, sort_keys=True).encode()), dtype=torch.uint8)
    state = {key: value for key, value in model_with(None).state_dict().items() if key != KEY}
    for entry in (text, text.float(), text.half()):
        load_without_warning(model_with(version(3)), state | {"loss._extra_state": entry})
        with pytest.warns(UserWarning, match="version 3, now .* version 4"):
            model_with(version(4)).load_state_dict(state | {"loss._extra_state": entry})
    load_without_warning(model_with(version(3)), state | {"loss._extra_state": text.float() / 2})


def test_the_weights_stay_those_of_the_script_and_every_change_warns() -> None:
    saved = model_with(weights_of("sqrt_inv_freq")).state_dict()
    for current, text in (
        (weights_of("inverse_freq"), r"sqrt_inv_freq of demo, now inverse_freq of demo \(method, spec, val"),
        ([1, 2, 3], r"now numbers of unknown origin \(values changed\)"),
        (None, "sqrt_inv_freq of demo, now no weights"),
    ):
        model: Any = model_with(current)
        before = model["loss"].weight
        with pytest.warns(UserWarning, match=text):
            model.load_state_dict(saved)
        assert model["loss"].weight is before
    with pytest.warns(UserWarning, match=r"numbers of unknown origin, now numbers of .* \(values changed\)"):
        model_with([1, 2, 3]).load_state_dict(model_with([1, 2, 4]).state_dict())
    load_without_warning(model_with([1, 2, 3]), model_with([1, 2, 3]).state_dict())
    load_without_warning(model_with([1, 2, 3]), model_with(None).state_dict())


@pytest.mark.parametrize(
    "form",
    [
        ClassWeights.tensor,
        ClassWeights.numpy,
        lambda weights: weights.tensor().clone(),
        lambda weights: weights.tensor().double(),
        lambda weights: nn.Parameter(weights.tensor(), requires_grad=False),
    ],
)
def test_the_provenance_of_a_tensor_or_array_is_that_of_its_response(form: Any) -> None:
    numbers = form(version(3))
    model: Any = model_with(numbers)
    assert model["loss"].provenance == CombinedLoss(class_weights=version(3)).provenance
    with pytest.warns(UserWarning, match="demo version 3, now inverse_freq of demo"):
        model_with(weights_of("inverse_freq").tensor()).load_state_dict(model.state_dict())
    assert CombinedLoss(class_weights=numbers * 2).provenance is None


def test_tensors_with_equal_values_keep_their_own_provenance_until_they_are_modified() -> None:
    third, fourth = version(3).tensor(), version(4).tensor()
    assert "version 3" in repr(CombinedLoss(class_weights=third))
    assert "version 4" in repr(CombinedLoss(class_weights=fourth))
    third[0] = 7
    assert "unknown origin" in repr(CombinedLoss(class_weights=third))


@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_averaged_model_keeps_the_provenance(use_buffers: bool) -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

    model = model_with(version(3))
    mean: Any = get_ema_avg_fn
    averaged = AveragedModel(model, avg_fn=mean(0.9), use_buffers=use_buffers)
    for _ in range(20):
        averaged.update_parameters(model)
    state = averaged.module.state_dict()
    load_without_warning(model_with(version(3)), state)
    with pytest.warns(UserWarning, match="version 3, now .* version 4"):
        model_with(version(4)).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_of_another_version_loads_with_a_warning(tmp_path: Path) -> None:
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    saved = model_with(version(9))
    dcp.save(get_model_state_dict(saved), checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    current: Any = model_with(version(10))
    state = get_model_state_dict(current)
    dcp.load(state, checkpoint_id=tmp_path / "checkpoint", no_dist=True)
    with pytest.warns(UserWarning, match="version 9, now .* version 10"):
        set_model_state_dict(current, state)
    assert current["head"].weight.equal(saved["head"].weight)
    load_without_warning(model_with(version(10)), current.state_dict())  # still describes its own weights


def test_safetensors_saves_and_loads_the_provenance(tmp_path: Path) -> None:
    torch_files = pytest.importorskip("safetensors.torch")
    file = tmp_path / "model.safetensors"
    torch_files.save_file(model_with(version(3)).state_dict(), file)
    load_without_warning(model_with(version(3)), torch_files.load_file(file))
    with pytest.warns(UserWarning, match="version 3, now .* version 4"):
        assert torch_files.load_model(model_with(version(4)), file) == (set(), [])
