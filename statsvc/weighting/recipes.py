"""Recipes: the settings of weights published with papers and code."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping


class Recipe(Struct, frozen=True):
    """Named settings.

    settings         parameters that the recipe sets; a spec with another value for them is rejected
    ignore_index     ids that it ignores unless the spec sets ignore_index; None leaves them to the dataset
    void_takes_part  True where the dataset's ignored ids are classes, except 255 and negative ids
    """

    name: str
    settings: Mapping[str, float | str]
    reference: str
    ignore_index: tuple[int, ...] | None = None
    void_takes_part: bool = False


def _erfnet(network_part: str, c: float) -> Recipe:
    return Recipe(
        f"erfnet-{network_part}",
        # Shares refer to all pixels: the published lists count void in N but have no weight for it.
        MappingProxyType({"method": "enet", "c": c, "normalize": "none", "denominator": "all"}),
        "Eromera/erfnet_pytorch, train/main.py",
    )


_RECIPES = (
    Recipe(
        "segnet",
        # SegNet divides by all pixels of the images in which the class occurs.
        MappingProxyType({"method": "median_freq", "normalize": "none", "denominator": "all"}),
        "alexgkendall/caffe-segnet#37",
        void_takes_part=True,
    ),
    Recipe(
        "enet",
        MappingProxyType({"method": "enet", "c": 1.02, "normalize": "none", "denominator": "all"}),
        "Paszke et al., ENet, 2016; e-lab/ENet-training",
    ),
    _erfnet("decoder", 1.10),
    _erfnet("encoder", 1.20),
    Recipe(
        "ocnet",
        MappingProxyType({"method": "log_count", "normalize": "mean", "denominator": "counted"}),
        "openseg-group/OCNet.pytorch#14",
    ),
    Recipe(
        "semantic-kitti",
        MappingProxyType(
            {"method": "inverse_eps", "epsilon": 0.001, "normalize": "none", "denominator": "all"}
        ),
        "PRBonn/semantic-kitti-api, config/semantic-kitti.yaml; ids after its learning_map",
        ignore_index=(0,),
    ),
    Recipe(
        "ultralytics",
        # cls_pw is strength; absent=eps gives a class without pixels what Ultralytics gives it.
        MappingProxyType({"method": "enet", "c": 1.02, "normalize": "mean", "denominator": "counted"}),
        "ultralytics/ultralytics, models/yolo/semantic/train.py; strength is its cls_pw",
    ),
    Recipe(
        "lightly-train",
        MappingProxyType({"method": "inverse_freq", "normalize": "mean", "denominator": "counted"}),
        'lightly-ai/lightly-train#965 and #966, the proposed class_weights="auto"',
    ),
    Recipe(
        "geoai",
        MappingProxyType(
            {"method": "inverse_freq", "normalize": "mean", "denominator": "counted", "clip": "0,50"}
        ),
        "opengeos/geoai, geoai/landcover_train.py, compute_class_weights; multiply is its custom_multipliers",
    ),
    Recipe(
        "keras-log",
        # The snippet divides by the sum of all counts, void included.
        MappingProxyType(
            {"method": "log_inv_freq", "k": 0.15, "floor": 1.0, "normalize": "none", "denominator": "all"}
        ),
        "create_class_weight with mu 0.15; tristan-deep/5LSM0_CityscapesDataset, utils/count_classes.py",
    ),
    Recipe(
        "randla",
        MappingProxyType(
            {"method": "inverse_eps", "epsilon": 0.02, "normalize": "none", "denominator": "counted"}
        ),
        "QingyongHu/RandLA-Net, helper_tool.py",
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}
"""Every recipe by name."""
