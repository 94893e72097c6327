"""The loss function and the callback in real runs of the Transformers Trainer."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy, interpolate

from statsvc.errors import InvalidParameter
from statsvc.losses import CombinedLoss
from support.small_segmentation import weights_of
from support.torchrun import run_ranks
from support.transformers_runs import DATA, SIZE, model, train

from statsvc.integrations.transformers import compute_loss_func, recorded  # isort: skip  after its quiet import

if TYPE_CHECKING:
    from pathlib import Path

    import statsvc

pytestmark = pytest.mark.filterwarnings("ignore")  # Transformers and Accelerate raise warnings of their own


def torch_loss(net: Any, weights: statsvc.ClassWeights, items: list[dict[str, Any]]) -> float:
    """Return Torch's weighted cross-entropy of a model, computed without statsvc."""
    logits = net(pixel_values=torch.stack([item["pixel_values"] for item in items])).logits
    labels = torch.stack([item["labels"] for item in items])
    logits = interpolate(logits, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return cross_entropy(logits, labels, weights.tensor(), ignore_index=255).item()


def initial_loss(weights: statsvc.ClassWeights, items: list[dict[str, Any]]) -> float:
    """Return the loss of the untrained model in training mode."""
    return torch_loss(model().train(), weights, items)


@pytest.fixture(scope="module")
def weights() -> statsvc.ClassWeights:
    return weights_of()


def test_the_first_loss_of_the_trainer_is_torchs_weighted_cross_entropy(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    _, history = train(tmp_path, weights)
    assert history[0]["loss"] == pytest.approx(initial_loss(weights, DATA[:4]), rel=1e-3)


def test_logits_of_one_axis_are_resized_and_labels_of_another_shape_are_named() -> None:
    criterion, labels = CombinedLoss(), torch.tensor([[0, 1, 2, 2, 1, 0, 0, 1]])
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    resized = torch.nn.functional.interpolate(logits, size=8, mode="linear")
    loss = compute_loss_func(criterion)({"logits": logits}, labels)
    torch.testing.assert_close(loss, criterion(resized, labels))
    with pytest.raises(InvalidParameter, match=r"target: has shape \[1, 1, 8\]"):
        compute_loss_func(criterion)({"logits": logits}, labels[None])


def test_the_loss_of_accumulated_batches_is_their_mean(weights: statsvc.ClassWeights, tmp_path: Path) -> None:
    _, history = train(
        tmp_path, weights, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1
    )
    losses = [initial_loss(weights, DATA[first : first + 2]) for first in range(0, 8, 2)]
    assert history[0]["loss"] == pytest.approx(sum(losses) / 4, rel=1e-3)


@pytest.mark.parametrize("dice_weight", [0.0, 0.4])
def test_accumulated_batches_have_the_loss_and_gradient_of_one_large_batch(
    weights: statsvc.ClassWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dice_weight: float
) -> None:
    data = [{**item, "labels": item["labels"].clone()} for item in DATA]
    for k, item in enumerate(data):
        item["labels"][: 4 * k] = 255  # from no ignored row to 28 of 32
    data[5]["labels"][:] = 255
    monkeypatch.setattr("support.transformers_runs.DATA", data)
    options: dict[str, Any] = {"ce_weight": 0.6, "dice_weight": dice_weight, "class_weights": weights}
    monkeypatch.setattr("support.transformers_runs.CombinedLoss", lambda **_: CombinedLoss(**options))
    trainer, history = train(
        tmp_path, weights, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1
    )
    net = model().train()  # forward in batches of two, because of batch normalization
    images, labels = (torch.stack([item[name] for item in data]) for name in ("pixel_values", "labels"))
    logits = torch.cat([net(pixel_values=pair).logits for pair in torch.split(images, 2)])
    logits = interpolate(logits, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    loss = CombinedLoss(**options)(logits, labels)
    loss.backward()
    assert history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for actual, initial in zip(trainer.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(initial - actual, 0.01 * initial.grad, rtol=1e-3, atol=1e-7)


def test_the_trainer_of_transformers_warns_where_accumulated_batches_are_not_exact(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    theirs: Any = transformers.Trainer
    options = {"per_device_train_batch_size": 2, "max_steps": 2, "trainer_class": theirs}
    with pytest.warns(UserWarning, match="import Trainer from statsvc") as caught:
        train(tmp_path / "several", weights, gradient_accumulation_steps=2, **options)
    assert len([each for each in caught if "import Trainer" in str(each.message)]) == 1
    with warnings.catch_warnings(record=True) as caught_now:
        warnings.simplefilter("always")
        _, history = train(tmp_path / "one", weights, **options)
    assert not [each for each in caught_now if "import Trainer" in str(each.message)]
    assert history[0]["loss"] == pytest.approx(initial_loss(weights, DATA[:2]), rel=1e-3)


def test_evaluation_reports_the_same_loss(weights: statsvc.ClassWeights, tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, weights, per_device_eval_batch_size=8, max_steps=1, learning_rate=0.0)
    untrained = model()
    with torch.no_grad():
        expected = torch_loss(untrained, weights, DATA)
    trainer.model.load_state_dict(untrained.state_dict())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-3)


def test_a_checkpoint_has_the_weights_and_resuming_with_others_warns(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    train(tmp_path, weights)
    checkpoint = str(tmp_path / "checkpoint-1")
    assert recorded(None) is None
    assert recorded(checkpoint) == json.loads(json.dumps(weights.to_dict()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tmp_path, weights, resume=checkpoint)
    assert not [warning for warning in caught if "other class weights" in str(warning.message)]
    with pytest.warns(UserWarning, match=r"other class weights: <.*sqrt_inv_freq.*, now <.*enet"):
        train(tmp_path, weights_of("enet"), resume=checkpoint)


def test_a_checkpoint_without_recorded_weights_is_rejected(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    train(tmp_path, weights, max_steps=1)
    file = tmp_path / "checkpoint-1" / "trainer_state.json"
    state = json.loads(file.read_text())
    del state["stateful_callbacks"]["ClassWeightsCallback"]
    file.write_text(json.dumps(state))
    with pytest.raises(InvalidParameter, match="was saved without ClassWeightsCallback"):
        recorded(str(tmp_path / "checkpoint-1"))


def test_the_weights_are_logged_to_the_mlflow_run_of_the_trainer(
    weights: statsvc.ClassWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    train(tmp_path, weights, max_steps=1, report_to=["mlflow"])
    import mlflow
    from mlflow import MlflowClient

    mlflow.end_run()  # or the callback ends it later, in the default database
    (run,) = MlflowClient().search_runs(["0"])
    assert run.data.params["class_weights/_digest"] == weights.digest
    assert run.data.params["class_weights/_method"] == "sqrt_inv_freq"
    assert run.data.params["optim"] == "sgd"  # logged by the Trainer
    artifacts = MlflowClient().list_artifacts(run.info.run_id)
    assert "class_weights.json" in [artifact.path for artifact in artifacts]


def test_a_model_without_logits_and_a_batch_without_labels_are_rejected(
    weights: statsvc.ClassWeights,
) -> None:
    compute = compute_loss_func(CombinedLoss(class_weights=weights))
    with pytest.raises(InvalidParameter, match="Mask2Former, computes its own loss"):
        compute({"masks_queries_logits": torch.zeros(1)}, torch.zeros(1, 2, 2))
    with pytest.raises(InvalidParameter, match="requires a batch with `labels`"):
        compute({"logits": torch.zeros(1, 4, 2, 2)}, None)


RANK = """
import json, sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
from support.small_segmentation import weights_of
from support.torchrun import leave_process_group
from support.transformers_runs import train

folder = Path(sys.argv[1])
trainer, history = train(folder / "run", weights_of(), per_device_train_batch_size=2,
                         gradient_accumulation_steps=2, max_steps=1, ddp_backend="gloo")
if trainer.is_world_process_zero():
    (folder / "history.json").write_text(json.dumps([trainer.args.world_size, history]))
leave_process_group()
"""


def test_the_loss_of_the_batches_of_two_ranks_is_their_mean(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    run_ranks(script, str(tmp_path))
    ranks, history = json.loads((tmp_path / "history.json").read_text())
    assert ranks == 2
    losses = [initial_loss(weights, DATA[first : first + 2]) for first in range(0, 8, 2)]
    assert history[0]["loss"] == pytest.approx(sum(losses) / 4, rel=1e-3)
