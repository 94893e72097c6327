"""Small folder trees in the layouts of public datasets and of export formats, and what a scan of each does.

`scripts/layouts_table.py` prints them as the table of docs/explanation/reading-label-maps.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support.label_trees import COLORS, write

if TYPE_CHECKING:
    from pathlib import Path

A, B = "2007_000032", "2007_000039"
"""Names that no numbering produces."""

NUMBERS = ("0", "1", "2")
CASES = ("case_00000", "case_00001", "case_00002")
CITIES = ("x_000000_000019", "x_000001_000019")


@dataclass(frozen=True)
class Tree:
    """A folder tree: groups of files, with the content and the paths of each.

    groups   group → path with `{}` for the name of the image, or several such paths
    counted  groups that are counted without a question; empty if the user is asked
    choices  groups that the user is asked to choose from; each has a pattern of its own
    content  group → what `support.label_trees.write` writes; without an entry, the name of the group
    texts    path → content of text files
    layout   the known layout that is detected or, in a question, offered
    splits   split → samples; of the files that are counted or, after a question, of the first choice
    names    first class names that are read
    colors   colors of the ids 0, 1, 2, as the class list next to the files or the layout defines them
    rule     rule that is offered, and given when the files are counted; groups are the masks of a class
    noted    part of a note that is printed
    """

    groups: dict[str, str | tuple[str, ...]]
    counted: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    images: tuple[str, ...] = ("a_0", "b_1", "c_2")
    content: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    layout: str | None = None
    splits: dict[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    rule: str | None = None
    noted: str = ""

    def create(self, root: Path) -> None:
        """Write the files."""
        seed = 0
        for group in self.groups:
            for path in self.paths(group):
                seed += 1
                write(root / path, self.content.get(group, group), seed, self.colors or COLORS)
        for path, text in self.texts.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)

    def paths(self, group: str) -> list[str]:
        """Return the paths of a group."""
        templates = self.groups[group]
        templates = (templates,) if isinstance(templates, str) else templates
        return sorted({template.format(image) for template in templates for image in self.images})


def masks(template: str, classes: tuple[str, ...], images: tuple[str, ...], **options: Any) -> Tree:
    """Return a tree of one binary mask per class and image: `template` has `{}` for the image and `@`."""
    groups: dict[str, str | tuple[str, ...]] = {name: template.replace("@", name) for name in classes}
    content = dict.fromkeys(classes, "mask")
    return Tree(groups, images=images, content=content, rule="mask-per-class", **options)


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,0,0::\ncar:0,128,0::\n"
TRAIN_VAL = {"train": 1, "val": 1}

TREES: dict[str, Tree] = {
    # Known layouts
    "Pascal VOC": Tree(
        {
            "class": "VOC2012/SegmentationClass/{}.png",
            "object": "VOC2012/SegmentationObject/{}.png",
            "jpg": "VOC2012/JPEGImages/{}.jpg",
        },
        choices=("class", "object"),
        images=(A, B),
        content={"class": "palette", "object": "palette"},
        texts={
            "VOC2012/ImageSets/Segmentation/train.txt": f"{A}\n",
            "VOC2012/ImageSets/Segmentation/val.txt": f"{B}\n",
            "VOC2012/ImageSets/Segmentation/trainval.txt": f"{A}\n{B}\n",
            "VOC2012/ImageSets/Segmentation/test.txt": "2008_000009\n",
        },
        layout="voc",
        splits={"train": 1, "val": 1, "trainval": 2},
    ),
    "labelme export": Tree(
        {
            "class": "SegmentationClass/{}.png",
            "object": "SegmentationObject/{}.png",
            "jpg": "JPEGImages/{}.jpg",
        },
        choices=("class", "object"),
        images=(A, B),
        content={"class": "palette", "object": "palette"},
        texts={"class_names.txt": "_background_\naeroplane\nbicycle\n"},
        layout="voc-export",
        names=("_background_", "aeroplane", "bicycle"),
    ),
    "CVAT segmentation mask": Tree(
        {"colors": "SegmentationClass/{}.png"},
        counted=("colors",),
        texts={"labelmap.txt": LABELMAP},
        layout="cvat",
        names=("background", "road", "car"),
        colors=COLORS,
    ),
    "CVAT with instances": Tree(
        {"colors": "SegmentationClass/{}.png", "object": "SegmentationObject/{}.png"},
        choices=("colors", "object"),
        content={"object": "colors"},
        texts={"labelmap.txt": LABELMAP},
        layout="cvat",
        names=("background", "road", "car"),
        colors=COLORS,
    ),
    "Cityscapes": Tree(
        {
            "rgb": ("leftImg8bit/train/x/{}_leftImg8bit.png", "leftImg8bit/val/y/{}_leftImg8bit.png"),
            "labels": ("gtFine/train/x/{}_gtFine_labelIds.png", "gtFine/val/y/{}_gtFine_labelIds.png"),
            "ids16": ("gtFine/train/x/{}_gtFine_instanceIds.png", "gtFine/val/y/{}_gtFine_instanceIds.png"),
            "colors": ("gtFine/train/x/{}_gtFine_color.png", "gtFine/val/y/{}_gtFine_color.png"),
        },
        choices=("labels", "ids16", "colors"),
        images=CITIES,
        layout="cityscapes",
        splits={"train": 2, "val": 2},
    ),
    "Cityscapes with training ids": Tree(
        {
            "labels": "gtFine/train/x/{}_gtFine_labelIds.png",
            "training": "gtFine/train/x/{}_gtFine_labelTrainIds.png",
        },
        choices=("labels", "training"),
        images=CITIES,
        content={"training": "labels"},
        layout="cityscapes",
        splits={"train": 2},
    ),
    "Cityscapes, fine and coarse": Tree(
        {
            "fine": "gtFine/train/x/{}_gtFine_labelIds.png",
            "coarse": "gtCoarse/train/x/{}_gtCoarse_labelIds.png",
        },
        choices=("fine", "coarse"),
        images=CITIES,
        content={"fine": "labels", "coarse": "labels"},
        layout="cityscapes",
        splits={"train": 2},
    ),
    "nnU-Net v2": Tree(
        {
            "image": "imagesTr/{}_0000.nii.gz",
            "labels": "labelsTr/{}.nii.gz",
            "test": "imagesTs/t{}_0000.nii.gz",
        },
        counted=("labels",),
        images=CASES,
        content={"image": "gray", "test": "gray"},
        texts={
            "dataset.json": json.dumps(
                {
                    "channel_names": {"0": "CT"},
                    "labels": {"background": 0, "liver": 1, "tumor": 2},
                    "file_ending": ".nii.gz",
                }
            ),
            "splits_final.json": json.dumps([{"train": CASES[:2], "val": CASES[2:]}]),
        },
        layout="nnunet",
        splits={"fold0_train": 2, "fold0_val": 1},
        names=("background", "liver", "tumor"),
    ),
    "Medical Segmentation Decathlon": Tree(
        {"image": "imagesTr/{}.nii.gz", "labels": "labelsTr/{}.nii.gz"},
        counted=("labels",),
        images=("hippocampus_001", "hippocampus_003"),
        content={"image": "gray"},
        texts={
            "dataset.json": json.dumps(
                {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
            )
        },
        layout="nnunet",
        splits={"train": 2},
        names=("background", "Anterior", "Posterior"),
    ),
    "nnU-Net, raw and preprocessed copies": Tree(
        {
            "raw": "nnUNet_raw/Dataset001/labelsTr/{}.nii.gz",
            "copy": "nnUNet_preprocessed/Dataset001/gt_segmentations/{}.nii.gz",
        },
        choices=("raw", "copy"),
        images=("liver_12x", "liver_3ab"),
        content={"raw": "labels", "copy": "labels"},
        splits={"train": 2},
    ),
    "KiTS": Tree(
        {"image": "{}/imaging.nii.gz", "labels": "{}/segmentation.nii.gz"},
        counted=("labels",),
        images=CASES,
        content={"image": "gray"},
        layout="kits",
    ),
    "LiTS": Tree(
        {"image": "Training Batch 1/volume-{}.nii", "labels": "Training Batch 1/segmentation-{}.nii"},
        counted=("labels",),
        images=NUMBERS,
        content={"image": "gray"},
        layout="lits",
    ),
    "BraTS": Tree(
        {
            "t1": "{0}/{0}_t1.nii.gz",
            "t2": "{0}/{0}_t2.nii.gz",
            "flair": "{0}/{0}_flair.nii.gz",
            "labels": "{0}/{0}_seg.nii.gz",
        },
        counted=("labels",),
        images=("BraTS_001", "BraTS_002"),
        content={"t1": "gray", "t2": "gray", "flair": "gray"},
    ),
    "ACDC": Tree(
        {
            "image": ("{0}/{0}_frame01.nii.gz", "{0}/{0}_frame12.nii.gz"),
            "labels": ("{0}/{0}_frame01_gt.nii.gz", "{0}/{0}_frame12_gt.nii.gz"),
        },
        counted=("labels",),
        images=("patient001", "patient002"),
        content={"image": "gray"},
    ),
    "CAMUS": Tree(
        {
            "image": ("{0}/{0}_2CH_ED.nii.gz", "{0}/{0}_4CH_ES.nii.gz"),
            "labels": ("{0}/{0}_2CH_ED_gt.nii.gz", "{0}/{0}_4CH_ES_gt.nii.gz"),
        },
        counted=("labels",),
        images=("patient0001", "patient0002"),
        content={"image": "gray"},
    ),
    "TotalSegmentator": masks(
        "{}/segmentations/@.nii.gz",
        ("kidney_left", "kidney_right", "liver", "spleen"),
        ("s0000", "s0001", "s0002"),
        layout="totalsegmentator",
        names=("background", "kidney_left", "kidney_right", "liver", "spleen"),
    ),
    "TotalSegmentator with scans": masks(
        "{}/segmentations/@.nii.gz",
        ("liver", "spleen", "vertebrae_L1"),
        ("s0000", "s0001", "s0002"),
        layout="totalsegmentator",
        names=("background", "liver", "spleen", "vertebrae_L1"),
    ),
    "Label Studio masks": masks(
        "{}-tag-@-0.png",
        ("Car", "Road"),
        ("task-1-annotation-1-by-1", "task-2-annotation-2-by-1"),
        layout="label-studio",
        names=("background", "Car", "Road"),
    ),
    "Severstal, one mask per class": masks(
        "masks/{}_@.png",
        ("class1", "class2", "class3"),
        ("0a1b", "2c3d", "4e5f"),
        names=("background", "class1"),
    ),
    "KITTI semantics": Tree(
        {
            "rgb": "training/image_2/{}_10.png",
            "ids16": "training/instance/{}_10.png",
            "labels": "training/semantic/{}_10.png",
        },
        choices=("labels", "ids16"),
        images=("000000", "000001"),
        layout="kitti",
        splits={"train": 2},
    ),
    "Mapillary Vistas 1.2": Tree(
        {
            "jpg": ("training/images/{}.jpg", "validation/images/v{}.jpg"),
            "labels": ("training/labels/{}.png", "validation/labels/v{}.png"),
            "ids16": ("training/instances/{}.png", "validation/instances/v{}.png"),
        },
        choices=("labels", "ids16"),
        layout="mapillary",
        splits={"train": 3, "val": 3},
    ),
    "Mapillary Vistas 2.0": Tree(
        {
            "jpg": "training/images/{}.jpg",
            "new": "training/v2.0/labels/{}.png",
            "old": "training/v1.2/labels/{}.png",
            "ids16": "training/v2.0/instances/{}.png",
        },
        choices=("new", "old", "ids16"),
        content={"old": "palette", "new": "palette"},
        layout="mapillary-v2",
        splits={"train": 3},
    ),
    "ADE20K": Tree(
        {
            "labels": (
                "annotations/training/ADE_train_00000001.png",
                "annotations/validation/ADE_val_00000001.png",
            ),
            "jpg": (
                "images/training/ADE_train_00000001.jpg",
                "images/validation/ADE_val_00000001.jpg",
            ),
        },
        counted=("labels",),
        layout="ade20k",
        splits=TRAIN_VAL,
    ),
    "BDD100K, masks and colors": Tree(
        {
            "labels": ("labels/sem_seg/masks/train/{}.png", "labels/sem_seg/masks/val/v{}.png"),
            "colors": ("labels/sem_seg/colormaps/train/{}.png", "labels/sem_seg/colormaps/val/v{}.png"),
        },
        choices=("labels", "colors"),
        images=("0000f77c-6257be58",),
        layout="bdd100k",
        splits=TRAIN_VAL,
    ),
    "BDD100K, drivable area and lanes": Tree(
        {
            "drivable": ("labels/drivable/masks/train/{}.png", "labels/drivable/masks/val/v{}.png"),
            "lane": ("labels/lane/masks/train/{}.png", "labels/lane/masks/val/v{}.png"),
        },
        choices=("drivable", "lane"),
        images=("0000f77c-6257be58", "0000f77c-62c2a288"),
        content={"drivable": "labels", "lane": "labels"},
        splits={"train": 2, "val": 2},
    ),
    "CamVid of SegNet": Tree(
        {
            "rgb": ("train/{}.png", "val/v{}.png", "test/t{}.png"),
            "labels": ("trainannot/{}.png", "valannot/v{}.png", "testannot/t{}.png"),
        },
        counted=("labels",),
        images=("0001TP_006690", "0001TP_006720"),
        layout="camvid",
        splits={"train": 2, "val": 2, "test": 2},
    ),
    "Roboflow masks": Tree(
        {
            "labels": ("train/{}_mask.png", "valid/v{}_mask.png"),
            "jpg": ("train/{}.jpg", "valid/v{}.jpg"),
        },
        counted=("labels",),
        texts={"train/_classes.csv": "Pixel Value, Class\n0, background\n1, car\n2, road\n"},
        layout="roboflow",
        splits={"train": 3, "val": 3},
        names=("background", "car", "road"),
    ),
    "COCO-Stuff label maps": Tree(
        {"labels": ("train2017/000000000009.png", "val2017/000000000139.png")},
        counted=("labels",),
        layout="coco-stuff",
        splits=TRAIN_VAL,
    ),
    "SUN RGB-D": Tree(
        {"fewer": "label13/{}.png", "more": "label38/{}.png", "depth": "depth/{}.png"},
        choices=("fewer", "more"),
        content={"fewer": "labels", "more": "labels", "depth": "gray"},
    ),
    "iSAID": Tree(
        {
            "rgb": "images/{}.png",
            "colors": "Semantic_masks/images/{}_instance_color_RGB.png",
            "instances": "Instance_masks/images/{}_instance_id_RGB.png",
        },
        choices=("colors", "instances"),
        images=("P0000", "P0001"),
        content={"instances": "colors"},
        layout="isaid",
        names=("background", "ship", "storage tank"),
        colors=((0, 0, 0), (0, 0, 63), (0, 63, 63)),
    ),
    "Synthia": Tree(
        {"rgb": "RGB/{}.png", "labels": "GT/LABELS/{}.png", "colors": "GT/COLOR/{}.png"},
        choices=("labels", "colors"),
        images=("0000001", "0000002"),
    ),
    "UAVid": Tree(
        {
            "rgb": ("seq1/Images/{}.png", "seq2/Images/{}.png"),
            "labels": ("seq1/Labels/{}.png", "seq2/Labels/{}.png"),
        },
        counted=("labels",),
        images=("000000", "000100"),
    ),
    "GTA5": Tree(
        {"rgb": "images/{}.png", "labels": "labels/{}.png"},
        counted=("labels",),
        images=("00001", "00002"),
        content={"labels": "palette"},
    ),
    # torchgeo
    "LandCover.ai": Tree(
        {"rgb": "images/M-33-20-D-c-4-{}.tif", "labels": "masks/M-33-20-D-c-4-{}.tif"},
        counted=("labels",),
        images=("1", "2"),
        layout="landcover-ai",
    ),
    "LoveDA": Tree(
        {
            "rgb": ("Train/Urban/images_png/0.png", "Val/Rural/images_png/1.png"),
            "labels": ("Train/Urban/masks_png/0.png", "Val/Rural/masks_png/1.png"),
        },
        counted=("labels",),
        layout="loveda",
        splits=TRAIN_VAL,
    ),
    "LEVIR-CD": Tree(
        {
            "A": ("train/A/train_{}.png", "test/A/test_{}.png"),
            "B": ("train/B/train_{}.png", "test/B/test_{}.png"),
            "labels": ("train/label/train_{}.png", "test/label/test_{}.png"),
        },
        counted=("labels",),
        images=("1", "2"),
        content={"A": "rgb", "B": "rgb"},
        layout="levir-cd",
        splits={"train": 2, "test": 2},
    ),
    "Inria": Tree(
        {
            "rgb": ("train/images/{}.tif", "test/images/b{}.tif"),
            "labels": "train/gt/{}.tif",
        },
        counted=("labels",),
        images=("austin1", "austin2"),
        layout="inria",
        splits={"train": 2},
    ),
    "DeepGlobe land cover": Tree(
        {"jpg": "train/{}_sat.jpg", "colors": "train/{}_mask.png"},
        counted=("colors",),
        images=("119", "606"),
        texts={"class_dict.csv": "name,r,g,b\nunknown,0,0,0\nurban_land,128,0,0\nforest_land,0,128,0\n"},
        layout="deepglobe",
        splits={"train": 2},
        names=("unknown", "urban_land", "forest_land"),
        colors=COLORS,
    ),
    "Potsdam": Tree(
        {
            "rgb": "2_Ortho_RGB/top_potsdam_{}_RGB.tif",
            "colors": "5_Labels_all/top_potsdam_{}_label.tif",
            "without": "5_Labels_all_noBoundary/top_potsdam_{}_label_noBoundary.tif",
        },
        choices=("colors", "without"),
        images=("2_10", "2_11"),
        content={"without": "colors"},
        layout="potsdam",
        names=("Impervious surfaces", "Building"),
        colors=((255, 255, 255), (0, 0, 255), (0, 255, 255)),
    ),
    "ETCI 2021": Tree(
        {
            "gray": ("train/{0}/tiles/vv/{0}_vv.png", "train/{0}/tiles/vh/{0}_vh.png"),
            "flood": "train/{0}/tiles/flood_label/{0}.png",
            "water": "train/{0}/tiles/water_body_label/{0}.png",
        },
        choices=("flood", "water"),
        images=("bangladesh_20170314", "florence_20180510"),
        content={"flood": "mask", "water": "mask"},
        layout="etci2021",
        splits={"train": 2},
    ),
    "Fields of the World": Tree(
        {"two": "semantic_2class/{}.tif", "three": "semantic_3class/{}.tif", "rgb": "s2_images/{}.tif"},
        choices=("two", "three"),
        content={"two": "labels", "three": "labels"},
    ),
    "38-Cloud": Tree(
        {"gray": "train_red/red_{}.TIF", "labels": "train_gt/gt_{}.TIF"},
        counted=("labels",),
        images=("patch_1", "patch_2"),
        layout="cloud38",
        splits={"train": 2},
    ),
    "xView2": Tree(
        {
            "rgb": ("train/images/{}_pre_disaster.png", "train/images/{}_post_disaster.png"),
            "labels": (
                "train/targets/{}_pre_disaster_target.png",
                "train/targets/{}_post_disaster_target.png",
            ),
        },
        counted=("labels",),
        images=("guatemala-volcano_00000000", "guatemala-volcano_00000001"),
        layout="xview2",
        splits={"train": 4},
    ),
    "change detection with two label maps": Tree(
        {
            "rgb": ("im1/{}.png", "im2/{}.png"),
            "labels": ("label1/{}.png", "label2/{}.png"),
        },
        counted=("labels",),
    ),
    # Several annotators, objects, versions
    "CHASE, two annotators": Tree(
        {"first": ("Image_{}L_1stHO.png", "Image_{}R_1stHO.png"), "second": "Image_{}L_2ndHO.png"},
        choices=("first", "second"),
        images=("01", "02"),
        content={"first": "labels", "second": "labels"},
    ),
    "STARE, two annotators": Tree(
        {"first": "{}.ah.png", "second": "{}.vk.png"},
        choices=("first", "second"),
        images=("im0001", "im0002"),
        content={"first": "mask", "second": "mask"},
    ),
    "LIDC, several annotators": Tree(
        {"gray": "{}.png", "first": "{}_mask-0.png", "second": "{}_mask-1.png"},
        choices=("first", "second"),
        images=("nodule-1_slice-4", "nodule-2_slice-7"),
        content={"first": "mask", "second": "mask"},
    ),
    "QUBIQ, several annotators": Tree(
        {
            "image": "{}/image.nii.gz",
            "first": "{}/task01_seg01.nii.gz",
            "second": "{}/task01_seg02.nii.gz",
        },
        choices=("first", "second"),
        images=("case01", "case02"),
        content={"image": "gray", "first": "mask", "second": "mask"},
    ),
    "RIM-ONE, several experts": Tree(
        {"first": "{}-exp1.png", "second": "{}-exp2.png"},
        choices=("first", "second"),
        images=("Im101", "Im256"),
        content={"first": "labels", "second": "labels"},
    ),
    "folders of annotators": Tree(
        {"first": "annotator1/{}.png", "second": "annotator2/{}.png", "jpg": "images/{}.jpg"},
        choices=("first", "second"),
        images=NUMBERS,
        content={"first": "labels", "second": "labels"},
    ),
    "BUSI, several objects": Tree(
        {
            "gray": "benign/{}.png",
            "first": "benign/{}_mask.png",
            "second": "benign/{}_mask_1.png",
        },
        choices=("first", "second"),
        images=("benign (1)", "benign (4)"),
        content={"first": "mask", "second": "mask"},
    ),
    "one file per object": Tree(
        {"rgb": "{0}/images/{0}.png", "objects": ("{0}/masks/m1{0}.png", "{0}/masks/m2{0}.png")},
        counted=("objects",),
        images=("x1", "x2"),
        content={"objects": "mask"},
        noted="4 label maps but 2 images",
    ),
    "suffixes of the number of classes": Tree(
        {"two": "{}_2class.png", "three": "{}_3class.png"},
        choices=("two", "three"),
        content={"two": "labels", "three": "labels"},
    ),
    "number of classes in the middle": Tree(
        {"two": "mask_2class_{}.png", "three": "mask_3class_{}.png"},
        choices=("two", "three"),
        images=NUMBERS,
        content={"two": "labels", "three": "labels"},
    ),
    "a backup": Tree(
        {"labels": "data/labels/{}.png", "backup": "backup/labels/{}.png"},
        choices=("labels", "backup"),
        images=NUMBERS,
        content={"backup": "labels"},
    ),
    "folders old and new": Tree(
        {"old": "masks/old/{}.png", "new": "masks/new/{}.png"},
        choices=("old", "new"),
        content={"old": "labels", "new": "labels"},
    ),
    "CaFFe, fronts and zones": Tree(
        {"fronts": "fronts/train/{}_front__1.png", "zones": "zones/train/{}_zones__1.png"},
        choices=("fronts", "zones"),
        images=("Crane_2002-11-09_ERS", "Mapple_2006-05-10_ALOS"),
        content={"fronts": "mask", "zones": "labels"},
        splits={"train": 2},
    ),
    "AgriFieldNet, crops and fields": Tree(
        {"crops": "train_labels/{}.tif", "fields": "train_labels/{}_field_ids.tif"},
        choices=("crops", "fields"),
        images=("ref_labels_train_001c1", "ref_labels_train_004fa"),
        content={"crops": "labels", "fields": "ids16"},
        splits={"train": 2},
    ),
    "two resolutions": Tree(
        {"small": "512/{}.png", "large": "1024/{}.png"},
        choices=("small", "large"),
        content={"small": "labels", "large": "labels"},
    ),
    "labels and a copy in a split": Tree(
        {"all": "labels/{}.png", "train": "train/labels/{}.png"},
        choices=("all", "train"),
        content={"all": "labels", "train": "labels"},
    ),
    "two targets per patient": Tree(
        {"organ": "{}/organ.nii.gz", "tumor": "{}/tumor.nii.gz"},
        choices=("organ", "tumor"),
        images=("p1", "p2", "p3"),
        content={"organ": "labels", "tumor": "labels"},
    ),
    "Montgomery, left and right lung": Tree(
        {
            "gray": "CXR_png/{}.png",
            "left": "ManualMask/leftMask/{}.png",
            "right": "ManualMask/rightMask/{}.png",
        },
        choices=("left", "right"),
        images=("MCUCXR_0001_0", "MCUCXR_0002_0"),
        content={"left": "mask", "right": "mask"},
    ),
    # Sound datasets with equal file names
    "stereo pairs": Tree(
        {"labels": ("{}_left.png", "{}_right.png")},
        counted=("labels",),
        images=("0001", "0002", "0003"),
        noted="counted as different images",
    ),
    "stereo pairs with images": Tree(
        {
            "jpg": ("images/{}_left.jpg", "images/{}_right.jpg"),
            "labels": ("masks/{}_left.png", "masks/{}_right.png"),
        },
        counted=("labels",),
        images=("0001", "0002", "0003"),
    ),
    "two cameras": Tree(
        {"labels": ("left_seg/{}.png", "right_seg/{}.png")},
        counted=("labels",),
        images=NUMBERS,
        noted="counted as different images",
    ),
    "sequences": Tree(
        {"labels": ("seq0/{}.png", "seq1/{}.png")},
        counted=("labels",),
        images=("000000", "000001", "000002"),
        noted="the folders seq0 and seq1 contain files of the same names",
    ),
    "patients with slices": Tree(
        {"jpg": ("p1/images/{}.jpg", "p2/images/{}.jpg"), "labels": ("p1/masks/{}.png", "p2/masks/{}.png")},
        counted=("labels",),
        images=("000", "001", "002"),
    ),
    # Names and content
    "gray images and masks": Tree({"gray": "images/{}.png", "labels": "masks/{}.png"}, counted=("labels",)),
    "gray images without a known name": Tree(
        {"gray": "one/{}.png", "labels": "two/{}.png"}, counted=("labels",)
    ),
    "prefixes": Tree({"gray": "image_{}.png", "labels": "mask_{}.png"}, counted=("labels",), images=NUMBERS),
    "suffixes": Tree({"gray": "{}.tif", "labels": "{}-seg.tif"}, counted=("labels",)),
    "other extension and name": Tree(
        {"scan": "p{}/t1.nii.gz", "labels": "p{}/seg.npy"},
        counted=("labels",),
        images=NUMBERS,
        content={"scan": "gray"},
    ),
    "floating-point scans": Tree(
        {"scan": "p{}/t1.npy", "labels": "p{}/seg.npy"},
        counted=("labels",),
        images=NUMBERS,
        content={"scan": "float"},
    ),
    "prefixes without a known name": Tree(
        {"gray": "x_{}.npy", "labels": "y_{}.npy"}, counted=("labels",), images=NUMBERS
    ),
    "predictions": Tree(
        {"labels": "gt/{}.png", "pred": "pred/{}.png"}, choices=("labels", "pred"), content={"pred": "labels"}
    ),
    "augmented copies": Tree(
        {
            "gray": "train/image/{}.png",
            "labels": "train/label/{}.png",
            "aug image": "train/aug/image_{}.png",
            "aug mask": "train/aug/mask_{}.png",
        },
        choices=("labels", "aug mask"),
        images=NUMBERS,
        content={"aug image": "gray", "aug mask": "labels"},
        splits={"train": 3},
    ),
    "depth images": Tree(
        {"depth": "depth/{}.png", "labels": "label/{}.png"}, counted=("labels",), content={"depth": "gray"}
    ),
    "two formats of the same label maps": Tree(
        {"png": "labels/{}.png", "npy": "labels/{}.npy"},
        choices=("png", "npy"),
        content={"png": "labels", "npy": "labels"},
    ),
    "characters of shells and globs": Tree(
        {"labels": "it's a [1] $HOME & (x)/{}.png", "ids16": 'it\'s a "2" {{y}}, ‘z’!/instance/{}.png'},
        choices=("labels", "ids16"),
    ),
}
