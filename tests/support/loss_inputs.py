"""Random logits, targets and weights for the tests of the losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from statsvc.sampling.weights import weights_response
from statsvc.weighting.class_weights import ClassWeights
from statsvc.weighting.parameters import WeightSpec
from support.small_tables import table_of


def logits_of(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def target_of(
    logits: Tensor, seed: int = 0, ignored: float = 0.2, ignore_index: int | list[int] = 255
) -> Tensor:
    """Return class ids, and in a share of the pixels an ignored id: each of them, if there are several."""
    generator = torch.Generator().manual_seed(seed)
    shape = logits.shape[:1] + logits.shape[2:]
    target = torch.randint(max(logits.shape[1], 2), shape, generator=generator)
    if ignore_index == []:
        return target
    ids = torch.tensor(ignore_index).reshape(-1)
    void = ids[torch.randint(len(ids), shape, generator=generator)] if len(ids) > 1 else ids.expand(shape)
    return torch.where(torch.rand(shape, generator=generator) < ignored, void, target)


def value_and_gradient(criterion: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = criterion(leaf, target)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def weights_of(method: str) -> ClassWeights:
    table = table_of([{0: 900, 1: 90, 2: 10}, {0: 950, 1: 50}], num_classes=3)
    return ClassWeights(weights_response(table, WeightSpec.from_params({"method": method})))
