"""Integrations with training frameworks and experiment trackers.

::

    monitor, Monitor        log the IoU of each class to Weights & Biases, MLflow or TensorBoard, and warn
    .lightning              callback that saves the weights in checkpoints, logs them and monitors each class
    .transformers           `compute_loss_func` for the `Trainer`, and a callback that saves the weights
    .monai                  loss for MONAI's label maps
    .mmseg                  config fragment for MMSegmentation
    .nnunet                 trainer for nnU-Net

Each module imports only the package that it integrates with. Hydra needs no module:
docs/how-to/integrations.md has the YAML.
"""

from __future__ import annotations

from statsvc.integrations.monitoring import Monitor, monitor

__all__ = ["Monitor", "monitor"]
