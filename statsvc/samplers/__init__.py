"""Samplers for `torch.utils.data.DataLoader` that draw images, or crops, with rare classes more often.

::

    from statsvc.samplers import RareClassSampler

    sampler = RareClassSampler(label_paths, "http://stats:8000", dataset="camvid", split="train")
    loader = DataLoader(dataset, batch_size=8, sampler=sampler)
    for epoch in range(100):
        sampler.set_epoch(epoch)
        for images, labels in loader: ...

`label_paths[i]` is the path of the label map of `dataset[i]`. See `docs/how-to/sample-rare-classes.md`.
"""

from __future__ import annotations

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise ImportError("PyTorch is not installed. Run: pip install 'statsvc[torch]'") from error

from statsvc.samplers.base import StatisticsSampler
from statsvc.samplers.images import ImageWeightSampler, RareClassSampler, RepeatFactorSampler
from statsvc.samplers.patches import PatchSampler
from statsvc.samplers.windows import crop

__all__ = [
    "ImageWeightSampler",
    "PatchSampler",
    "RareClassSampler",
    "RepeatFactorSampler",
    "StatisticsSampler",
    "crop",
]
