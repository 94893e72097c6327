"""What joins statsvc to other packages. Each module needs its own package, and no other.

    monitor, Monitor        each class's IoU into Weights & Biases, MLflow or TensorBoard, and warnings
    .lightning              a callback that keeps the weights in checkpoints and logs, and monitors
    .transformers           a `compute_loss_func` for the `Trainer`, and a callback
    .monai                  a loss that takes MONAI's label maps
    .mmseg                  a config fragment for MMSegmentation
    .nnunet                 a trainer for nnU-Net

Hydra needs no module: docs/integrations.md has the YAML.
"""

from __future__ import annotations

from statsvc.integrations.monitoring import Monitor, monitor

__all__ = ["Monitor", "monitor"]
