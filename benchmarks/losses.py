"""Compare the losses with other implementations: values, gradients, time and memory, in one run.

    python benchmarks/losses.py [--shape 4,19,512,512] [--repeats 9] [--only TEXT] [--json FILE]

Forward and backward pass on the CPU in float32. Within a group all losses have the same logits, target and
options, and run alternately, so that other load on the machine affects all of them. The first loss of a group
is that of statsvc. Memory is the largest
increase of the resident set during one forward and backward pass, each loss in a separate process (Linux).
Peers: MONAI; segmentation-models-pytorch (only its losses, see `smp_losses`); the usual implementation with
softmax and one-hot targets. The table names peers that are not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from measuring import Row, at_most, report
from torch import Tensor

from statsvc.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, TverskyLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    Loss = Callable[[Tensor, Tensor], Tensor]

CE, DICE = 0.6, 0.4
IGNORE = 255
ONE_CHANNEL = "one channel"


def smp_losses() -> Any:
    """Return the package of losses in segmentation-models-pytorch.

    Only their files are loaded, which need Torch: the complete package also imports torchvision.
    """
    package = importlib.util.find_spec("segmentation_models_pytorch")
    if package is None or package.origin is None:
        raise ImportError("segmentation_models_pytorch is not installed")
    folder = Path(package.origin).parent / "losses"
    name = "smp_losses"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def cross_entropy_only(weight: Tensor | None) -> Loss:
    return torch.nn.CrossEntropyLoss(weight, ignore_index=IGNORE)


def one_hot(batch: bool, weight: Tensor | None) -> Loss:
    """Return the usual implementation with one-hot targets; ignored pixels are masked."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        classes, space = logits.shape[1], [2, 3][: target.ndim - 1]
        valid = (target != IGNORE)[:, None]
        y = F.one_hot(target.where(target != IGNORE, 0), classes).movedim(-1, 1) * valid
        p = logits.softmax(1) * valid
        overlap, mass, pixels = (p * y).sum(space), p.sum(space), y.sum(space)
        if batch:
            overlap, mass, pixels = overlap.sum(0), mass.sum(0), pixels.sum(0)
        w = torch.ones(classes) if weight is None else weight
        dice = ((1 - (2 * overlap + 1) / (mass + pixels + 1)) * w).sum(-1) / w.sum()
        return CE * F.cross_entropy(logits, target, weight, ignore_index=IGNORE) + DICE * dice.mean()

    return loss


def monai(name: str, scale: float = 1, **options: Any) -> Loss:
    """Return `scale` · a loss of MONAI, for targets without a channel."""
    import monai.losses

    loss = getattr(monai.losses, name)(**options)
    return lambda logits, target: scale * loss(logits, target[:, None])


def monai_dice_ce(**options: Any) -> Loss:
    return monai("DiceCELoss", smooth_nr=1.0, smooth_dr=1.0, lambda_ce=CE, lambda_dice=DICE, **options)


def smp(weight: Tensor | None, ignored: bool) -> Loss:
    losses = smp_losses()
    dice = losses.DiceLoss(
        "multiclass",
        smooth=0.5,  # (Σpy + s) / (½(Σp + Σy) + s) is how it writes Dice
        ignore_index=IGNORE if ignored else None,
        class_weights=None if weight is None else weight.tolist(),
    )
    ce = cross_entropy_only(weight)
    return lambda logits, target: CE * ce(logits, target) + DICE * dice(logits, target)


def ours(batch: bool, weight: Tensor | None) -> Loss:
    return CombinedLoss(
        ce_weight=CE, dice_weight=DICE, class_weights=weight, batch_dice=batch, absent="penalise"
    )


def data(shape: tuple[int, ...], ignored: bool) -> tuple[Tensor, Tensor]:
    """Return logits and a target of patches 16 pixels wide; with `ignored`, a tenth of them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator)
    coarse = [shape[0], *(-(-size // 16) for size in shape[2:])]
    target = torch.randint(max(shape[1], 2), coarse, generator=generator)
    if ignored:
        target[torch.rand(coarse, generator=generator) < 0.1] = IGNORE
    for axis, size in enumerate(shape[2:], start=1):
        target = target.repeat_interleave(16, axis).narrow(axis, 0, size)
    return logits.requires_grad_(), target.contiguous()


def weights(classes: int) -> Tensor:
    return torch.linspace(0.2, 3, classes)


SOFTMAX = {"softmax": True, "to_onehot_y": True}
TVERSKY = {"alpha": 0.3, "beta": 0.7}
BATCH: dict[str, Any] = {"batch_dice": True, "absent": "penalise"}

# All losses of a group have the same options. The other values are compared with those of the first.
GROUPS: dict[str, tuple[bool, dict[str, Callable[[int], Loss]]]] = {
    "unweighted, Dice of each sample": (
        False,
        {
            "statsvc CombinedLoss": lambda _: ours(False, None),
            "MONAI DiceCELoss": lambda _: monai_dice_ce(**SOFTMAX),
            "one-hot form": lambda _: one_hot(False, None),
            "cross-entropy only": lambda _: cross_entropy_only(None),
        },
    ),
    "unweighted, Dice of the batch": (
        False,
        {
            "statsvc CombinedLoss": lambda _: ours(True, None),
            "MONAI DiceCELoss": lambda _: monai_dice_ce(**SOFTMAX, batch=True),
            "smp DiceLoss + cross-entropy": lambda _: smp(None, False),
            "one-hot form": lambda _: one_hot(True, None),
        },
    ),
    "weighted, a tenth ignored, Dice of the batch": (
        True,
        {
            "statsvc CombinedLoss": lambda classes: ours(True, weights(classes)),
            "smp DiceLoss + cross-entropy": lambda classes: smp(weights(classes), True),
            "one-hot form": lambda classes: one_hot(True, weights(classes)),
            "cross-entropy only": lambda classes: cross_entropy_only(weights(classes)),
        },
    ),
    "Dice of the batch": (
        False,
        {
            "statsvc DiceLoss": lambda _: DiceLoss(**BATCH),
            "MONAI DiceLoss": lambda _: monai(
                "DiceLoss", smooth_nr=1.0, smooth_dr=1.0, batch=True, **SOFTMAX
            ),
            "smp DiceLoss": lambda _: smp_losses().DiceLoss("multiclass", smooth=0.5),
        },
    ),
    "Tversky of the batch": (
        False,
        {
            "statsvc TverskyLoss": lambda _: TverskyLoss(**TVERSKY, **BATCH),
            "MONAI TverskyLoss": lambda _: monai(
                "TverskyLoss", smooth_nr=0.5, smooth_dr=0.5, batch=True, **TVERSKY, **SOFTMAX
            ),
            "smp TverskyLoss": lambda _: smp_losses().TverskyLoss("multiclass", smooth=0.5, **TVERSKY),
        },
    ),
    "focal loss, gamma 2": (
        False,
        {
            "statsvc CrossEntropyLoss": lambda _: CrossEntropyLoss(gamma=2),
            # The mean of MONAI is also over classes.
            "MONAI FocalLoss": lambda classes: monai(
                "FocalLoss", scale=classes, gamma=2.0, use_softmax=True, to_onehot_y=True
            ),
        },
    ),
    "label smoothing 0.1, a tenth ignored": (
        True,
        {
            "statsvc CrossEntropyLoss": lambda _: CrossEntropyLoss(label_smoothing=0.1),
            "Torch CrossEntropyLoss": lambda _: torch.nn.CrossEntropyLoss(
                ignore_index=IGNORE, label_smoothing=0.1
            ),
        },
    ),
    f"{ONE_CHANNEL}, Dice of each sample": (
        False,
        {
            "statsvc CombinedLoss": lambda _: ours(False, None),
            "MONAI DiceCELoss": lambda _: monai_dice_ce(sigmoid=True),
        },
    ),
    f"{ONE_CHANNEL}, Dice of the batch": (
        False,
        {
            "statsvc DiceLoss": lambda _: DiceLoss(**BATCH),
            "MONAI DiceLoss": lambda _: monai(
                "DiceLoss", smooth_nr=1.0, smooth_dr=1.0, batch=True, sigmoid=True
            ),
            "smp DiceLoss": lambda _: smp_losses().DiceLoss("binary", smooth=0.5),
        },
    ),
    f"{ONE_CHANNEL}, focal loss, gamma 2": (
        False,
        {
            "statsvc CrossEntropyLoss": lambda _: CrossEntropyLoss(gamma=2, alpha=[0.75, 0.25]),
            "MONAI FocalLoss": lambda _: monai("FocalLoss", gamma=2.0, alpha=0.25),
            "smp FocalLoss": lambda _: smp_losses().FocalLoss("binary", gamma=2.0, alpha=0.25),
        },
    ),
}


def shape_of(group: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the logits of a group."""
    return (shape[0], 1, *shape[2:]) if group.startswith(ONE_CHANNEL) else shape


def step(loss: Loss, logits: Tensor, target: Tensor) -> tuple[float, Tensor]:
    logits.grad = None
    value = loss(logits, target)
    value.backward()  # type: ignore[no-untyped-call]  # of Torch
    gradient: Tensor | None = logits.grad
    assert gradient is not None
    return value.item(), gradient


def resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def peak_memory(group: str, name: str, shape: tuple[int, ...]) -> int:
    """Return the bytes by which the resident set rises at most; run in a process of its own."""
    ignored, losses = GROUPS[group]
    shape = shape_of(group, shape)
    loss = losses[name](shape[1])
    small = (shape[0], shape[1], *(32 for _ in shape[2:]))
    step(loss, *data(small, ignored))  # code is loaded before
    logits, target = data(shape, ignored)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    step(loss, logits, target)
    return max(resident("VmHWM") - before, 1)


def peak_of(group: str, name: str, shape: tuple[int, ...]) -> int:
    """Return `peak_memory` of a fresh process."""
    command = [sys.executable, __file__, "--peak", group, name, "--shape", ",".join(map(str, shape))]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(process.stdout)


def measured(shape: tuple[int, ...], repeats: int, only: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for group, (ignored, makers) in GROUPS.items():
        if only not in group:
            continue
        logits, target = data(shape_of(group, shape), ignored)
        losses, steps = {}, {}
        for name, make in makers.items():
            try:
                losses[name] = make(shape[1])
            except ImportError as problem:
                rows.append({"group": group, "loss": name, "missing": str(problem)})
        for name, loss in losses.items():
            steps[name] = step(loss, logits, target)
        times: dict[str, list[float]] = {name: [] for name in losses}
        for _ in range(repeats):
            for name, loss in losses.items():
                start = time.perf_counter()
                step(loss, logits, target)
                times[name].append(1000 * (time.perf_counter() - start))
        value, gradient = steps[next(iter(makers))]
        rows += [
            {
                "group": group,
                "loss": name,
                "value": steps[name][0],
                "value_difference": abs(steps[name][0] - value),
                "gradient_difference": (steps[name][1] - gradient).abs().max().item(),
                "gradient_largest": steps[name][1].abs().max().item(),
                "ms": statistics.median(times[name]),
                "peak_bytes": peak_of(group, name, shape),
            }
            for name in losses
        ]
    return rows


def compared_with_peers(rows: list[dict[str, Any]]) -> list[Row]:
    """Compare time and memory with MONAI and segmentation-models-pytorch, if they are installed."""
    comparisons = []
    for row in rows:
        if "missing" in row or not row["loss"].startswith(("MONAI", "smp")):
            continue
        first = reference_of(rows, row["group"])
        name = f"{row['group']}: {row['loss']}"
        comparisons.append(at_most(f"{name}, time", row["ms"], first["ms"], 0.5, "ms"))
        peaks = (row["peak_bytes"] / 2**20, first["peak_bytes"] / 2**20)
        comparisons.append(at_most(f"{name}, memory beyond the input", *peaks, 0.45, "MiB"))
    return comparisons


def reference_of(rows: list[dict[str, Any]], group: str) -> dict[str, Any]:
    """Return the row of statsvc."""
    return next(row for row in rows if row["group"] == group and row["loss"].startswith("statsvc"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", default="4,19,512,512", metavar="N,C,H,W")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", default="", metavar="TEXT", help="only groups whose name contains TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--peak", nargs=2, metavar=("GROUP", "LOSS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(map(int, options.shape.split(",")))
    if options.peak:
        group, loss = options.peak
        print(peak_memory(group, loss, shape))
        return
    rows = measured(shape, options.repeats, options.only)
    logits = 4 * torch.Size(shape).numel()
    print(
        f"{list(shape)} float32, logits of {logits / 2**20:.0f} MiB, {torch.get_num_threads()} threads, "
        f"medians of {options.repeats}; ours/theirs is statsvc's part of their time and memory"
    )
    group = ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            reference = reference_of(rows, group)
            print(
                f"\n{group}\n{'':30} {'value':>9}  {'max |Δ grad|':>12}  {'ms':>7}  {'ours/theirs':>11}  "
                f"{'peak MiB':>8}  {'ours/theirs':>11}"
            )
        if "missing" in row:
            print(f"{row['loss']:30} not compared: {row['missing']}")
            continue
        print(
            f"{row['loss']:30} {row['value']:9.6f}  {row['gradient_difference']:12.1e}  {row['ms']:7.1f}  "
            f"{reference['ms'] / row['ms']:11.2f}  {row['peak_bytes'] / 2**20:8.0f}  "
            f"{reference['peak_bytes'] / row['peak_bytes']:11.2f}"
        )
    goals = compared_with_peers(rows)
    print()
    title = f"losses of logits {list(shape)} compared with the same losses of MONAI and smp"
    table = report(title, goals, missing=[] if goals else ["MONAI and smp are not installed"])
    if options.json is not None:
        options.json.write_text(json.dumps(table | {"losses": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
