"""Responses of `/datasets`, their versions and tags."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from statsvc.api.schemas.base import ResponseModel, example
from statsvc.api.schemas.jobs import JOB, TIME, Failure, Job, JobSummary


class ClassMap(ResponseModel):
    """A map from raw ids to class ids."""

    name: str = Field(description="name of the class map")
    targets: list[list[int]] = Field(description="pairs [raw id, class id]; a negative class id is ignored")
    names: list[str] = Field(description="class names by class id")
    colors: list[list[int]] = Field(description="colors [red, green, blue] by class id, 0 to 255")
    source: str = Field(description="where the class map comes from")
    otherwise: str = Field(description="treatment of raw ids that the map does not list")


class Split(ResponseModel):
    """The samples of a split: a folder, a glob, or lists of paths and names. Only one form is present."""

    folder: str | None = Field(None, description="folder in the path of a sample")
    glob: str | None = Field(None, description="glob of paths")
    paths: list[str] | None = Field(None, description="paths relative to the source")
    names: list[str] | None = Field(None, description="file names without extension")


class GroupRule(ResponseModel):
    """Rule that assigns samples to groups. Only one form is present."""

    pattern: str | None = Field(
        None, description="expression over the path, or over the file name if it does not contain `/`"
    )
    folder: int | None = Field(None, description="folder level: 1 is the outermost, -1 the innermost folder")
    values: dict[str, str] | None = Field(None, description="group by path, or by name without extension")


class Palette(ResponseModel):
    """Colors that encode ids."""

    name: str = Field(description="name of the palette")
    colours: list[list[int]] = Field(description="rows of red, green, blue and id")
    names: list[list[int | str]] = Field(description="pairs [id, class name]")
    source: str = Field(description="where the palette comes from")


class CountingRule(ResponseModel):
    """How pixel values become raw ids. Fields with default values are left out."""

    rule: str | None = Field(None, description="counting rule, such as `id // 1000`")
    key: str | None = Field(None, description="array, member or column that holds the labels")
    palette: Palette | None = Field(None, description="palette that decodes colors")
    rows: str | None = Field(None, description="which part of an array is one sample: index or chunk")
    classes: list[str] | None = Field(None, description="names of the ids from 1 of `mask-per-class`")
    grid: str | None = Field(None, description="grid of tiles that are counted too, such as 8x8")


class FileGroup(ResponseModel):
    """Files of one kind."""

    pattern: str = Field(description="glob that matches these files and no others of the source")
    files: int = Field(description="number of files when the source was inspected")
    role: str | None = Field(description="labels, images, instances, …; null if unknown")
    content: str = Field(description="what the files contain")
    example: str = Field(description="path of one of the files")


class Selection(ResponseModel):
    """Which files of the source are counted, and which are skipped."""

    layout: str | None = Field(description="known layout of the folder; null if it is not known")
    counted: list[FileGroup] = Field(description="files that are counted")
    skipped: list[FileGroup] = Field(description="files of other kinds, such as images")
    notes: list[str] = Field(description="what else a reader of the counts should know")


class Configuration(ResponseModel):
    """How the counts of a version are interpreted."""

    num_classes: int | None = Field(description="number of classes; null until the first version infers it")
    class_names: list[str] = Field(description="class names by class id")
    ignore_index: list[int] | None = Field(
        description="ids after the class map that are not counted; null for 255 and every negative id"
    )
    class_map: ClassMap | None = Field(description="class map; null if raw ids are class ids")
    splits: dict[str, Split] = Field(description="split by name")
    groups: dict[str, GroupRule] | None = Field(
        None, description="group rule by name; left out if there are none"
    )
    counting: CountingRule | None = Field(None, description="left out if pixel values are raw ids")
    notes: dict[str, str] | None = Field(
        None,
        description="what the first scan read from files of the source, by field, and which files it did not "
        "use; left out if there were none",
    )
    selection: Selection | None = Field(None, description="left out if the source was not inspected")


class DatasetState(ResponseModel):
    """A dataset and its current version."""

    name: str = Field(description="name of the dataset")
    source: str | None = Field(description="folder or URL of the label maps; null for imported counts")
    pattern: str | None = Field(description="glob of label maps; null until the first scan detects it")
    keep: int = Field(description="number of newest versions that keep their per-sample counts")
    every: str | None = Field(description="interval of scheduled scans, such as `10m`; null without schedule")
    watch: bool = Field(description="whether a change in the source starts a scan")
    next_scan_at: str | None = Field(description=f"when the next scan is due ({TIME}); null if none is")
    version: int | None = Field(description="number of the current version; null without one")
    samples: int | None = Field(description="samples of the current version; null if unknown")
    failed: int = Field(description="samples of the current version that could not be read")
    pixels: int | None = Field(description="pixels of the current version; null without one")
    created_at: str = Field(description=f"when the dataset was registered ({TIME})")
    published_at: str | None = Field(description=f"when the current version was published ({TIME})")


class DatasetSummary(DatasetState):
    """A dataset with its current version and its newest job."""

    job: JobSummary | None = Field(description="newest job; null without one")


class DatasetDetails(DatasetState):
    """A dataset with its configuration, warnings, unreadable samples and newest jobs."""

    configuration: Configuration
    warnings: list[str] = Field(
        description="where the configuration does not fit the label maps, and why the counts may be out of "
        "date: scans that fail, or no runner"
    )
    failures: list[Failure] = Field(description="some of the samples that could not be read")
    jobs: list[JobSummary] = Field(description="newest jobs, newest first")


SUMMARY: dict[str, Any] = {
    "name": "camvid",
    "source": "/data/camvid",
    "pattern": "**/*.png",
    "keep": 20,
    "every": "1d",
    "watch": False,
    "next_scan_at": "2026-03-02T12:00:00.000Z",
    "version": 3,
    "samples": 367,
    "failed": 0,
    "pixels": 63417600,
    "created_at": "2026-03-01T12:00:00.000Z",
    "published_at": "2026-03-01T12:00:04.000Z",
    "job": {
        "id": JOB["id"],
        "state": "succeeded",
        "version": 3,
        "error": None,
        "created_at": "2026-03-01T12:00:00.000Z",
        "finished_at": "2026-03-01T12:00:04.000Z",
    },
}
DATASET: dict[str, Any] = SUMMARY | {
    "configuration": {
        "num_classes": 11,
        "class_names": ["sky", "building", "pole"],
        "ignore_index": [11],
        "class_map": None,
        "splits": {"train": {"folder": "train"}, "val": {"folder": "val"}},
        "selection": {
            "layout": None,
            "counted": [
                {
                    "pattern": "labels/**/*.png",
                    "files": 367,
                    "role": "labels",
                    "content": "8-bit gray, values 0 to 11, at most 12 different in a file",
                    "example": "labels/train/0001TP_006690.png",
                }
            ],
            "skipped": [],
            "notes": [],
        },
    },
    "warnings": ["3 class names for 11 classes: ids 3 to 10 have no name"],
    "failures": [],
    "jobs": [SUMMARY["job"]],
}


class DatasetPage(ResponseModel):
    """A page of datasets, by name."""

    model_config = example({"datasets": [SUMMARY], "next": None})

    datasets: list[DatasetSummary]
    next: str | None = Field(description="value of `after` for the next page; null on the last page")


class Dataset(DatasetDetails):
    """A dataset with its configuration, warnings, unreadable samples and newest jobs."""

    model_config = example(DATASET)

    job: JobSummary | None = Field(description="newest job; null without one")


class RegisteredDataset(DatasetDetails):
    """A dataset that was just registered, with the job of its first scan."""

    model_config = example(
        DATASET
        | {
            "version": None,
            "samples": None,
            "pixels": None,
            "published_at": None,
            "warnings": [],
            "jobs": [SUMMARY["job"] | {"state": "queued", "version": None, "finished_at": None}],
            "job": JOB | {"state": "queued", "attempt": 0, "progress": {}, "started_at": None},
        }
    )

    job: Job = Field(description="the job of the first scan")


class Version(ResponseModel):
    """A published version."""

    number: int = Field(description="version number, never reused")
    tags: list[str] = Field(description="tags of the version")
    rows: bool = Field(description="whether per-sample counts are kept; false: only totals are available")
    kind: str = Field(description="how the version was made: scan, configuration or import")
    samples: int | None = Field(description="number of samples; null if unknown")
    sampled_from: int | None = Field(
        description="number of samples from which these were drawn, for an estimate; null if all were counted"
    )
    failed: int = Field(description="samples that could not be read")
    pixels: int = Field(description="pixels counted, including ignored ids")
    num_classes: int | None = Field(description="number of classes")
    class_map: str | None = Field(description="name of the class map; null if raw ids are class ids")
    splits: list[str] = Field(description="names of the splits")
    selection: Selection | None = Field(
        description="which files are counted and which are skipped; null if the source was not inspected"
    )
    reader: str = Field(description="digest of the program and rules that read the label maps")
    job: str | None = Field(description="id of the job that published the version; null without one")
    created_at: str = Field(description=f"when the version was published ({TIME})")


VERSION: dict[str, Any] = {
    "number": 3,
    "tags": ["paper"],
    "rows": True,
    "kind": "scan",
    "samples": 367,
    "sampled_from": None,
    "failed": 0,
    "pixels": 63417600,
    "num_classes": 11,
    "class_map": None,
    "splits": ["train", "val"],
    "selection": None,
    "reader": "9f2c1a7be4d05c33",
    "job": JOB["id"],
    "created_at": "2026-03-01T12:00:04.000Z",
}


class VersionPage(ResponseModel):
    """A page of versions, newest first."""

    model_config = example({"dataset": "camvid", "current": 3, "versions": [VERSION], "next": None})

    dataset: str = Field(description="name of the dataset")
    current: int | None = Field(description="number of the current version; null without one")
    versions: list[Version]
    next: int | None = Field(description="value of `before` for the next page; null on the last page")


class ImportedVersion(Version):
    """A version made from imported counts."""

    model_config = example(
        {"dataset": "camvid"}
        | VERSION
        | {"kind": "import", "rows": False, "samples": None, "job": None, "tags": [], "splits": []}
    )

    dataset: str = Field(description="name of the dataset")


class Tag(ResponseModel):
    """A tag and the version that it names."""

    model_config = example({"dataset": "camvid", "tag": "paper", "version": 3})

    dataset: str = Field(description="name of the dataset")
    tag: str = Field(description="name of the tag")
    version: int = Field(description="version number")
