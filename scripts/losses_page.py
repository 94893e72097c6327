"""Compute every table and figure of docs/explanation/losses.md with the losses and weights of this package.

python scripts/losses_page.py             prints each table with its name
python scripts/losses_page.py --figures   also draws docs/images/losses-*.png (needs the `plot` extra)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statsvc import WeightSpec
from statsvc.dataset.configuration import Configuration
from statsvc.dataset.memory_table import MemoryTable
from statsvc.dataset.table import Block
from statsvc.losses import CombinedLoss, DiceLoss
from statsvc.sampling.weights import weights_response
from statsvc.weighting.class_weights import ClassWeights

ROOT = Path(__file__).parents[1]
NAMES = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]
SIZE = 100  # the example scene has 100 × 100 pixels
RARE = 100  # of which 100 are of class 1, the rare class
CONFIDENCE = 0.99  # the probability that the model gives to its prediction


def camvid(**params: Any) -> ClassWeights:
    """Return weights from the published pixel counts of CamVid train; the void class is ignored."""
    published = json.loads((ROOT / "tests" / "data" / "published.json").read_text())
    counts = np.array([published["camvid_train"]["counts"]], np.int64)
    ids = np.arange(counts.shape[1])
    rows = Block(["all"], np.zeros(1, np.uint8), [""], counts)
    table = MemoryTable("camvid", Configuration(class_names=(*NAMES, "void")), ids, rows)
    return ClassWeights(weights_response(table, WeightSpec.from_params({"ignore_index": [11], **params})))


def scene(detected: float) -> tuple[Tensor, Tensor]:
    """Return (logits, target) of a scene in which the model detects this share of the rare pixels.

    logits float64 [1, 2, 100, 100], target int64 [1, 100, 100]
    """
    target = torch.zeros(SIZE * SIZE, dtype=torch.int64)
    target[:RARE] = 1
    predicted = target.clone()
    predicted[round(detected * RARE) : RARE] = 0
    p = torch.full((2, SIZE * SIZE), 1 - CONFIDENCE, dtype=torch.float64)
    p.scatter_(0, predicted[None], CONFIDENCE)
    return p.log().view(1, 2, SIZE, SIZE), target.view(1, SIZE, SIZE)


def cross_entropy(weights: list[float] | None = None) -> CombinedLoss:
    """Return cross-entropy without a Dice term."""
    return CombinedLoss(ce_weight=1, dice_weight=0, class_weights=weights)


def scene_weights(method: str) -> list[float]:
    """Return the weights of the two classes of the example scene."""
    counts = np.array([[SIZE * SIZE - RARE, RARE]], np.int64)
    rows = Block(["scene"], np.zeros(1, np.uint8), [""], counts)
    table = MemoryTable("scene", Configuration(), np.arange(2), rows)
    return ClassWeights(weights_response(table, WeightSpec.from_params({"method": method}))).to_list()


def table(header: str, rows: list[list[str]]) -> str:
    """Return a Markdown table; columns of the header are separated by `|`."""
    columns = header.split(" | ")
    lines = [header, " | ".join(["---", *["---:"] * (len(columns) - 1)]), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def detection_table() -> str:
    """Compare the losses for increasing shares of detected rare pixels."""
    rows = []
    for share in (0, 0.5, 1):
        logits, target = scene(share)
        losses = [
            cross_entropy(),
            cross_entropy(scene_weights("sqrt_inv_freq")),
            cross_entropy(scene_weights("inverse_freq")),
            DiceLoss(),
            CombinedLoss(class_weights=scene_weights("sqrt_inv_freq")),
        ]
        correct = (logits.argmax(1) == target).double().mean().item()
        rows.append([f"{share:.0%}", f"{correct:.1%}", *(f"{loss(logits, target):.4f}" for loss in losses)])
    return table(
        "rare pixels detected | pixels correct | cross-entropy | with `sqrt_inv_freq` | with `inverse_freq` "
        "| Dice | 0.6·CE + 0.4·Dice, `sqrt_inv_freq`",
        rows,
    )


def pixel_gradients(p: float) -> dict[str, float]:
    """Return −∂loss/∂logit for one rare pixel with probability p for its class, for each loss."""
    logits, target = scene(0.5)
    logits[0, :, 0, 0] = torch.tensor([1 - p, p], dtype=torch.float64).log()
    gradients = {}
    for name, loss in (
        ("cross-entropy", cross_entropy()),
        ("Dice", DiceLoss()),
        ("0.6·CE + 0.4·Dice", CombinedLoss()),
        ("0.6·CE + 0.4·Dice, sqrt_inv_freq", CombinedLoss(class_weights=scene_weights("sqrt_inv_freq"))),
    ):
        leaf = logits.clone().requires_grad_()
        gradients[name] = -torch.autograd.grad(loss(leaf, target), leaf)[0][0, 1, 0, 0].item()
    return gradients


def gradient_table() -> str:
    """Compare the gradients of the losses at one pixel."""
    shares = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99)
    gradients = [pixel_gradients(p) for p in shares]
    rows = [[name, *(f"{1e6 * row[name]:.1f}" for row in gradients)] for name in gradients[0]]
    return table("10⁶ × gradient at p = | " + " | ".join(f"{p:g}" for p in shares), rows)


METHODS = ("uniform", "sqrt_inv_freq", "inverse_freq")


def share_table() -> str:
    """Show how weights change the share of each class in the loss."""
    answers = [camvid(method=method) for method in METHODS]
    rows = []
    for c, name in enumerate(NAMES):
        cells = [f"{answers[0].classes[c]['frequency']:.2%}"]
        cells += [f"{a.classes[c]['weight']:.2f} → {a.classes[c]['loss_share']:.1%}" for a in answers[1:]]
        rows.append([name, *cells])
    return table(
        "class | share of pixels, and of the loss with `uniform` | `sqrt_inv_freq` | `inverse_freq`", rows
    )


def absent_table() -> str:
    """Compare the weight of a class without pixels for two values of `absent`."""
    rows = []
    for method in ("sqrt_inv_freq", "inverse_freq"):
        for absent in ("zero", "eps"):
            weights = camvid(method=method, absent=absent, num_classes=13, normalize="none").to_list()
            # Scripts add the epsilon before they normalize, so the mean includes the absent class.
            present, missing = np.array(weights[:11]), weights[12]
            scale = present.mean() if absent == "zero" else np.array([*present, missing]).mean()
            rows.append(
                [f"`{method}`", f"`{absent}`", f"{missing / scale:.3g}", f"{present.max() / scale:.3g}"]
            )
    return table("method | `absent` | weight of the absent class | largest weight of a present class", rows)


def beta_table() -> str:
    """Compare the ratio of the largest to the smallest weight."""
    rows = []
    for label, params in (
        ("`effective_num`, β = 0.999", {"method": "effective_num", "beta": 0.999}),
        ("`effective_num`, β = 0.9999", {"method": "effective_num", "beta": 0.9999}),
        ("`effective_num`, β = 1−1e-7", {"method": "effective_num", "beta": "1-1e-7"}),
        ("`effective_num`, β = auto", {"method": "effective_num", "beta": "auto"}),
        ("`sqrt_inv_freq`", {"method": "sqrt_inv_freq"}),
        ("`inverse_freq`", {"method": "inverse_freq"}),
    ):
        weights = camvid(**params).to_list()[:11]
        rows.append([label, f"{max(weights) / min(weights):.6f}"])
    return table("weights of CamVid's 11 classes | largest / smallest", rows)


def ignored_table() -> str:
    """Compare three treatments of a void fifth of the image in which the model predicts class 1."""
    logits, target = scene(1)
    void = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    void[:, -SIZE // 5 :] = True
    logits = torch.where(void[:, None], logits.flip(1), logits)
    p, y = logits.softmax(1), torch.nn.functional.one_hot(target, 2).movedim(-1, 1)
    y = y * ~void[:, None]

    def dice(p: Tensor, y: Tensor) -> float:
        overlap = 2 * (p * y).sum((0, 2, 3)) + 1
        return (1 - overlap / (p.sum((0, 2, 3)) + y.sum((0, 2, 3)) + 1)).mean().item()

    as_background = y + torch.stack([void, torch.zeros_like(void)], 1)
    rows = [
        ["excluded from all sums", f"{DiceLoss()(logits, target.masked_fill(void, 255)):.4f}"],
        ["excluded from y, included in Σp (one-hot of zeros)", f"{dice(p, y):.4f}"],
        ["treated as class 0", f"{dice(p, as_background):.4f}"],
    ]
    return table("treatment of the void fifth | Dice loss", rows)


def batch_table() -> str:
    """Compare Dice per sample and per batch for a class that occurs in one image of eight."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (8, 64, 64), generator=generator)
    target[0, :8, :8] = 2
    p = torch.full((8, 3, 64, 64), 0.04, dtype=torch.float64).scatter_(1, target[:, None], 0.92)
    p[:, 2] = torch.where(target == 2, 0.92, 0.005)
    logits = (p / p.sum(1, keepdim=True)).log()
    rows = []
    for name, options in (
        ("per sample, `absent='skip'`", {}),
        ("per sample, `absent='penalise'`", {"absent": "penalise"}),
        ("per batch", {"batch_dice": True}),
    ):
        rare = DiceLoss(class_weights=[0, 0, 1], **options)(logits, target).item()
        rows.append([name, f"{DiceLoss(**options)(logits, target):.4f}", f"{rare:.4f}"])
    return table("Dice | all three classes | the rare class only", rows)


def scale_table() -> str:
    """Compare two means over 10,000 pixels with CamVid's shares, if every pixel has the same loss."""
    shares = [row["frequency"] for row in camvid().classes[:11]]
    target = torch.cat([torch.full((round(10_000 * share),), c) for c, share in enumerate(shares)])[None]
    logits = torch.zeros(1, 12, target.shape[1], dtype=torch.float64)
    uniform_loss = np.log(12)  # of equal logits over 12 classes
    rows = []
    for method in METHODS:
        for normalize in ("mean", "expected"):
            weights = camvid(method=method, normalize=normalize)
            plain = (weights.tensor().double()[target] * uniform_loss).mean().item() / uniform_loss
            weighted = cross_entropy(weights.to_list())(logits, target).item() / uniform_loss
            rows.append([f"`{method}`", f"`{normalize}`", f"{plain:.2f}", f"{weighted:.2f}"])
    return table("method | `normalize` | Σwℓ / pixels | Σwℓ / Σw (Torch, statsvc)", rows)


def smooth_table() -> str:
    """Show the effect of `smooth` on a small object that is not detected."""
    rows = []
    for pixels in (1, 3, 10, 100, 1000):
        target = torch.zeros(1, SIZE, SIZE, dtype=torch.int64)
        target.view(-1)[:pixels] = 1
        missed = torch.tensor([40.0, -40]).view(1, 2, 1, 1).expand(1, 2, SIZE, SIZE).double()
        losses = [DiceLoss(class_weights=[0, 1], smooth=smooth)(missed, target) for smooth in (1.0, 1e-5)]
        rows.append([str(pixels), *(f"{loss:.4f}" for loss in losses)])
    return table("pixels of the class, none detected | loss with `smooth=1` | with `smooth=1e-5`", rows)


TABLES = {
    "detection": detection_table,
    "gradient": gradient_table,
    "share": share_table,
    "absent": absent_table,
    "beta": beta_table,
    "ignored": ignored_table,
    "batch": batch_table,
    "scale": scale_table,
    "smooth": smooth_table,
}


def draw(folder: Path) -> None:
    """Write the three figures of the page as PNG files to `folder`."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)

    def save(figure: Any, name: str) -> None:
        figure.tight_layout()
        figure.savefig(folder / f"losses-{name}.png", dpi=110, metadata={"Software": None})

    figure, axes = plt.subplots(figsize=(5.6, 3))
    shares = np.linspace(0, 1, 51)
    for name, loss in (
        ("cross-entropy", cross_entropy()),
        ("cross-entropy, sqrt_inv_freq", cross_entropy(scene_weights("sqrt_inv_freq"))),
        ("Dice", DiceLoss()),
        ("0.6·CE + 0.4·Dice, sqrt_inv_freq", CombinedLoss(class_weights=scene_weights("sqrt_inv_freq"))),
    ):
        axes.plot(100 * shares, [loss(*scene(share)).item() for share in shares], label=name)
    axes.set(xlabel="detected pixels of the rare class, %", ylabel="loss", ylim=(0, None))
    axes.legend(frameon=False)
    save(figure, "detection")

    figure, axes = plt.subplots(figsize=(5.6, 3))
    ps = np.geomspace(1e-4, 0.999, 60)
    gradients = [pixel_gradients(p) for p in ps]
    for name in gradients[0]:
        axes.loglog(ps, [1e6 * row[name] for row in gradients], label=name)
    axes.set(xlabel="p of the correct class", ylabel="10⁶ × gradient of its logit")
    axes.legend(frameon=False)
    save(figure, "gradient")

    figure, axes = plt.subplots(figsize=(5.6, 3.2))
    answers = [camvid(method=method) for method in METHODS]
    order = sorted(range(len(NAMES)), key=lambda c: -answers[0].classes[c]["frequency"])
    for k, (method, weights) in enumerate(zip(METHODS, answers, strict=True)):
        places = np.arange(len(order)) + 0.27 * (k - 1)
        axes.bar(places, [100 * weights.classes[c]["loss_share"] for c in order], width=0.25, label=method)
    axes.set_xticks(range(len(order)), [NAMES[c] for c in order], rotation=40, ha="right")
    axes.set_ylabel("share of the loss, %")
    axes.legend(frameon=False)
    save(figure, "share")


def main() -> None:
    """Print the tables; with --figures, also draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--figures", action="store_true")
    if parser.parse_args().figures:
        draw(ROOT / "docs" / "images")
    print("\n\n".join(f"{name}\n\n{make()}" for name, make in TABLES.items()))


if __name__ == "__main__":
    main()
