"""Roles of folders and file names: `imagesTr` contains images, `labelsTr` label maps, `pred` predictions.

A name is split into words (`leftImg8bit` → left, img, 8, bit), which are looked up in one table.
"""

from __future__ import annotations

import functools
import re
from enum import Enum

from statsvc.dataset.splits import FOLDERS


class Role(Enum):
    """What the files of a folder, or with a prefix or suffix, are for."""

    IMAGES = "images"
    LABELS = "labels"
    INSTANCES = "instances"
    PREDICTIONS = "predictions"
    VISUALIZATIONS = "visualizations"
    COPIES = "copies"
    AUGMENTED = "augmented copies"
    AUXILIARY = "auxiliary maps"


WORDS: dict[Role, str] = {
    Role.PREDICTIONS: "pred preds predicted prediction predictions output outputs result results inference",
    Role.VISUALIZATIONS: (
        "color colors colour colours colored coloured colormap colormaps vis viz visual visualization "
        "visualizations visualisation overlay overlays preview previews"
    ),
    Role.COPIES: "backup backups bak copy copies old archive archived deprecated obsolete",
    Role.AUGMENTED: "aug augmented augmentation augmentations",
    Role.INSTANCES: "instance instances inst ins panoptic pan",
    Role.AUXILIARY: (
        "edge edges boundary boundaries contour contours skeleton skeletons distance weight weights heatmap "
        "heatmaps superpixel superpixels bbox flow confidence uncertainty probability probabilities"
    ),
    Role.LABELS: (
        "label labels labelled lbl lbls mask masks bitmask bitmasks msk annotation annotations annot annots "
        "anno ann gt gts groundtruth truth target targets seg segs segm segmentation segmentations segmap "
        "segmaps semantic semantics semseg sem trimap trimaps annotator annotators rater raters "
        "expert experts observer observers exp binary multiclass manual fine coarse"
    ),
    Role.IMAGES: (
        "image images img imgs imaging jpeg jpegs photo photos picture pictures rgb rgba input inputs volume "
        "volumes ct cts mri mris mr t1 t1w t1n t1c t1ce t1gd t2 t2w t2f flair dwi adc pet us xray nir vv vh "
        "sar depth depths disparity disparities disp dsm dem ndsm raw original originals stills"
    ),
}
"""Words of each role. Where a name contains words of several roles, the first role in this table wins."""

WHOLE: dict[str, Role] = {
    "segmentationclass": Role.LABELS,
    "segmentationclassaug": Role.LABELS,
    "segmentationclassraw": Role.LABELS,
    "segmentationobject": Role.INSTANCES,
    "im1": Role.IMAGES,
    "im2": Role.IMAGES,
    "postevent": Role.IMAGES,
    "preevent": Role.IMAGES,
    "labeledapprovedfull": Role.VISUALIZATIONS,
}
"""Roles of whole names, in lower case and without separators."""

VARIANTS = {"raw", "original", "originals", "resampled", "resized", "input", "inputs"}
"""Words that also name variants of label maps: they give no role inside a folder of label maps."""

SPECIAL = (
    Role.PREDICTIONS,
    Role.VISUALIZATIONS,
    Role.COPIES,
    Role.AUGMENTED,
    Role.INSTANCES,
    Role.AUXILIARY,
)
"""Roles that a folder gives to everything below it, whatever the folders inside are called."""

SPLIT_WORDS = {*FOLDERS, "tr", "ts", "va"}
"""Words that name a split: `labelsTr` and `labelsTs` are one kind."""

ROLE_OF = {word: role for role, words in reversed(WORDS.items()) for word in words.split()}

PRECEDENCE = list(WORDS)

PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")

MODALITY = re.compile(r"^[A-Za-z]+\d[A-Za-z]*$")
"""A word such as `t1` or `T2w`, whose digit belongs to it."""

COUNTED_CLASSES = re.compile(r"^\d+_?class(es)?$")
"""A set of labels named by its number of classes: `2class`, `3classes`."""

VERSION = re.compile(r"^v\d+(\.\d+)*$")
"""A folder of one version of the labels: `v1.2`, `v2.0`."""


@functools.lru_cache(maxsize=1 << 16)
def words(name: str) -> tuple[str, ...]:
    """Return the words and numbers of a name, in lower case: `imagesTr` → images, tr."""
    found: list[str] = []
    for token in re.split(r"[\W_]+", name):
        if MODALITY.fullmatch(token) and token.lower() in ROLE_OF:
            found.append(token.lower())
        else:
            found += [part.lower() for part in PARTS.findall(token)]
    return tuple(without for word in found for without in _without_split(word))


def _without_split(word: str) -> tuple[str, ...]:
    """Return `trainannot` as train, annot; other words unchanged."""
    for split in FOLDERS:
        rest = word.removeprefix(split)
        if rest != word and rest in ROLE_OF:
            return split, rest
    return (word,)


@functools.lru_cache(maxsize=1 << 16)
def role_of(name: str) -> Role | None:
    """Return the role that a folder name or a part of a file name has, or None."""
    whole = re.sub(r"[\W_]+", "", name).lower()
    if whole in WHOLE:
        return WHOLE[whole]
    roles = {ROLE_OF[word] for word in words(name) if word in ROLE_OF}
    if Role.LABELS in roles and "rgb" in words(name):
        return Role.VISUALIZATIONS
    if not roles and any(COUNTED_CLASSES.match(token) for token in re.split(r"[\W_]+", name.lower())):
        return Role.LABELS
    return next((role for role in PRECEDENCE if role in roles), None)


def has_outer_labels(folder: str) -> bool:
    """Whether a folder of images lies in one of label maps, as in `Semantic_masks/images`."""
    return any(role_of(part) is Role.LABELS for part in folder.split("/")[:-1])


@functools.lru_cache(maxsize=1 << 16)
def folder_role(folder: str) -> tuple[Role | None, str]:
    """Return the role of a folder by its relative path, and the name in the path that gives it the role.

    A folder of predictions or instances gives its role to everything below it; otherwise the innermost name
    with a role decides. The name is "" without a role.
    """
    parts = folder.split("/")
    roles = [(role_of(part), part) for part in reversed(parts)]
    for role, part in roles:
        if role in SPECIAL:
            return role, part
    labels = any(role is Role.LABELS for role, _ in roles)
    return next(
        (
            (role, part)
            for role, part in roles
            if role is not None and not (labels and VARIANTS.issuperset(words(part)))
        ),
        (None, ""),
    )


def without_splits(name: str) -> tuple[str, ...]:
    """Return the words of a name that do not name a split: equal for `labelsTr` and `labelsTs`."""
    return tuple(word for word in words(name) if word not in SPLIT_WORDS)
