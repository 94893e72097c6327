"""The loss and the callback in real runs of the Trainer, with a tiny SegFormer that is made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from support.small_segmentation import batch, weights_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Transformers' own imports
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainingArguments

from statsvc.errors import InvalidParameter
from statsvc.integrations.transformers import ClassWeightsCallback, compute_loss_func, recorded
from statsvc.losses import CombinedLoss

if TYPE_CHECKING:
    import statsvc

pytestmark = pytest.mark.filterwarnings("ignore")  # Transformers and Accelerate have their own

SIZE = 32


def model() -> Any:
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 8],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[1, 1],
        decoder_hidden_size=8,
        num_labels=4,
        hidden_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
    )
    return SegformerForSemanticSegmentation(config).eval()


DATA = [
    {"pixel_values": image[0], "labels": label[0]} for image, label in (batch(n, 1, SIZE) for n in range(8))
]


def train(
    folder: Path, weights: statsvc.ClassWeights, resume: str | None = None, **options: Any
) -> tuple[Trainer, list[dict[str, Any]]]:
    arguments = TrainingArguments(
        output_dir=str(folder),
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0,
        logging_steps=1,
        save_strategy="steps",
        save_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        **(
            {"report_to": [], "learning_rate": 0.01, "max_steps": 2, "per_device_train_batch_size": 4}
            | options
        ),
    )
    trainer = Trainer(
        model=model(),
        args=arguments,
        train_dataset=DATA,
        eval_dataset=DATA,
        compute_loss_func=compute_loss_func(CombinedLoss(ce_weight=1, dice_weight=0, class_weights=weights)),
        callbacks=[ClassWeightsCallback(weights)],
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(DATA)  # type: ignore[method-assign]
    trainer.train(resume_from_checkpoint=resume)
    return trainer, [entry for entry in trainer.state.log_history if "loss" in entry]


def expected_loss(weights: statsvc.ClassWeights, items: list[dict[str, Any]]) -> float:
    """What Torch says of the untrained model: no code of ours."""
    net = model()
    net.train()
    logits = net(pixel_values=torch.stack([item["pixel_values"] for item in items])).logits
    labels = torch.stack([item["labels"] for item in items])
    logits = interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return cross_entropy(logits, labels, weights.tensor(), ignore_index=255).item()


@pytest.fixture(scope="module")
def weights() -> statsvc.ClassWeights:
    return weights_of()


def test_the_trainers_first_loss_is_torchs_weighted_cross_entropy(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    _, history = train(tmp_path, weights)
    assert history[0]["loss"] == pytest.approx(expected_loss(weights, DATA[:4]), rel=1e-3)


def test_accumulated_batches_are_one_mean_and_not_their_sum(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    _, history = train(
        tmp_path / "b", weights, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1
    )
    means = [expected_loss(weights, DATA[at : at + 2]) for at in range(0, 8, 2)]
    assert history[0]["loss"] == pytest.approx(sum(means) / 4, rel=1e-3)


def test_evaluation_reports_the_same_loss(weights: statsvc.ClassWeights, tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, weights, per_device_eval_batch_size=8, max_steps=1, learning_rate=0.0)
    net = model()
    with torch.no_grad():
        logits = net(pixel_values=torch.stack([item["pixel_values"] for item in DATA])).logits
        logits = interpolate(logits, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        labels = torch.stack([item["labels"] for item in DATA])
        expected = cross_entropy(logits, labels, weights.tensor(), ignore_index=255).item()
    trainer.model.load_state_dict(net.state_dict())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-3)


def test_a_checkpoint_holds_the_weights_and_resuming_with_others_warns(
    weights: statsvc.ClassWeights, tmp_path: Path
) -> None:
    train(tmp_path, weights)
    checkpoint = str(tmp_path / "checkpoint-1")
    assert recorded(None) is None
    record = recorded(checkpoint)
    assert record == json.loads(json.dumps(weights.to_dict()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tmp_path, weights, resume=checkpoint)
    assert not [w for w in caught if "other class weights" in str(w.message)]
    other = weights_of("enet")
    with pytest.warns(UserWarning, match=r"trained with other class weights: <.*sqrt_inv_freq.*enet.* now"):
        train(tmp_path, other, resume=checkpoint)
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["ClassWeightsCallback"]
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(InvalidParameter, match="was saved without ClassWeightsCallback"):
        recorded(str(tmp_path / "checkpoint-2"))


def test_the_trainers_run_of_mlflow_holds_the_weights(
    weights: statsvc.ClassWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    train(tmp_path, weights, max_steps=1, report_to=["mlflow"])
    from mlflow import MlflowClient

    (run,) = MlflowClient().search_runs(["0"])
    assert run.data.params["class_weights/_digest"] == weights.digest
    assert run.data.params["class_weights/_method"] == "sqrt_inv_freq"
    assert run.data.params["optim"] == "sgd"  # the Trainer's own
    artifacts = MlflowClient().list_artifacts(run.info.run_id)
    assert "class_weights.json" in [artifact.path for artifact in artifacts]


def test_a_model_without_logits_and_a_batch_without_labels_are_refused(weights: statsvc.ClassWeights) -> None:
    compute = compute_loss_func(CombinedLoss(class_weights=weights))
    with pytest.raises(InvalidParameter, match="Mask2Former, has a loss of its own"):
        compute({"masks_queries_logits": torch.zeros(1)}, torch.zeros(1, 2, 2))
    with pytest.raises(InvalidParameter, match="needs a batch with `labels`"):
        compute({"logits": torch.zeros(1, 4, 2, 2)}, None)


RANKS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from test_transformers import *

folder = Path(sys.argv[1])
weights = weights_of()
trainer, history = train(folder / "run", weights, per_device_train_batch_size=2,
                         gradient_accumulation_steps=2, max_steps=1, ddp_backend="gloo")
if trainer.is_world_process_zero():
    (folder / "history.json").write_text(json.dumps([trainer.args.world_size, history]))
"""


def test_the_batches_of_two_ranks_are_one_mean(weights: statsvc.ClassWeights, tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    tests = Path(__file__).parent
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"},
        timeout=200,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ranks, history = json.loads((tmp_path / "history.json").read_text())
    assert ranks == 2
    means = [expected_loss(weights, DATA[at : at + 2]) for at in range(0, 8, 2)]
    assert history[0]["loss"] == pytest.approx(sum(means) / 4, rel=1e-3)
