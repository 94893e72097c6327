"""Class weights in the checkpoints of a training framework."""

from __future__ import annotations

import warnings
from typing import Any

from statsvc.weighting.class_weights import ClassWeights


def warn_if_different(record: dict[str, Any], weights: ClassWeights) -> None:
    """Warn if the weights recorded in a checkpoint differ from those of the resumed run.

    record  `ClassWeights.to_dict()` from the checkpoint

    Raises `InvalidParameter` for a malformed record.
    """
    recorded = ClassWeights.from_dict(record)
    if recorded.digest != weights.digest:
        warnings.warn(
            f"the checkpoint was trained with other class weights: {recorded}, now {weights}. To continue "
            "with the recorded weights, pass the record to Client.weights as pinned",
            UserWarning,
            stacklevel=3,
        )
