"""A small training run with the Trainer of Transformers, of a tiny SegFormer."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from support.small_segmentation import batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # raised by Transformers' own imports
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, TrainingArguments

from statsvc.integrations.transformers import ClassWeightsCallback, Trainer, compute_loss_func
from statsvc.losses import CombinedLoss

if TYPE_CHECKING:
    from pathlib import Path

    from statsvc.weighting.class_weights import ClassWeights

__all__ = ["DATA", "SIZE", "Trainer", "TrainingArguments", "model", "train"]

SIZE = 32
DATA = [
    {"pixel_values": images[0], "labels": labels[0]}
    for images, labels in (batch(seed, 1, SIZE) for seed in range(8))
]
"""Eight images of SIZE × SIZE pixels with their labels."""


def model() -> Any:
    """Return an untrained SegFormer with four classes, the same at each call."""
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


def train(
    folder: Path,
    weights: ClassWeights,
    resume: str | None = None,
    trainer_class: type[Any] = Trainer,
    **options: Any,
) -> tuple[Any, list[dict[str, Any]]]:
    """Train a model with weighted cross-entropy; return the trainer and the log entries with a loss.

    resume   folder of a checkpoint
    options  options of `TrainingArguments`
    """
    defaults: dict[str, Any] = {
        "report_to": [],
        "learning_rate": 0.01,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
    }
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
        **(defaults | options),
    )
    trainer = trainer_class(
        model=model(),
        args=arguments,
        train_dataset=DATA,
        eval_dataset=DATA,
        compute_loss_func=compute_loss_func(CombinedLoss(ce_weight=1, dice_weight=0, class_weights=weights)),
        callbacks=[ClassWeightsCallback(weights)],
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(DATA)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, [entry for entry in trainer.state.log_history if "loss" in entry]
