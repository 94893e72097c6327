"""Importing counts of other tools as versions, and exporting versions to files that other projects read."""

from __future__ import annotations

import csv
import json
import runpy
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from statsvc.errors import Unanswerable
from statsvc.sampling.weights import weights_response
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import open_version
from statsvc.weighting import export
from statsvc.weighting.parameters import WeightSpec
from support.command_line import invoke
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient

    from statsvc.store.home import Home
    from statsvc.store.versions.version import Version

MAPS = label_maps(seed=3, images=9, classes=5) | {"train/void.png": np.full((8, 12), 255, np.uint8)}


def open_current(home: Home, name: str) -> Version:
    catalog = Catalog.open(home.database)
    dataset = catalog.dataset(name)
    version = open_version(home.store, name, catalog.version(dataset))
    catalog.close()
    return version


def daformer_files(maps: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return the contents of the three files `export.DAFORMER` that DAFormer's converter writes.

    Transcribed from `convert_to_train_id` and `save_class_stats`.
    """
    stats = []
    for file in sorted(maps):
        sample: dict[str, Any] = {}
        for class_id in range(5):
            n = int(np.sum(maps[file] == class_id))
            if n > 0:
                sample[str(class_id)] = n
        stats.append(sample | {"file": file})
    by_file = {sample["file"]: {key: n for key, n in sample.items() if key != "file"} for sample in stats}
    by_class: dict[str, list[list[Any]]] = {}
    for file, pixels in by_file.items():
        for key, n in pixels.items():
            by_class.setdefault(key, []).append([file, n])
    return stats, by_file, by_class


def statsvc(*arguments: str | Path, code: int = 0) -> str:
    """Run a command in this process; return its stderr."""
    return invoke(*arguments, code=code).stderr


def export_street(home: Home, form: str, output: Path, *options: str) -> None:
    statsvc("export", "street", "--format", form, "-o", output, *options, "--home", home.folder)


def test_the_daformer_export_equals_the_files_of_daformers_converter(home: Home, tmp_path: Path) -> None:
    publish(home, "street", MAPS)
    folder = tmp_path / "gta"
    export_street(home, "daformer", folder)
    for name, expected in zip(export.DAFORMER, daformer_files(MAPS), strict=True):
        text = (folder / name).read_text()
        assert text == json.dumps(expected, indent=2), name  # including the order of the keys


def test_imported_daformer_statistics_have_the_same_rows_and_weights(home: Home, tmp_path: Path) -> None:
    publish(home, "street", MAPS)
    export_street(home, "daformer", tmp_path / "gta")
    for name, file in (("imported", export.DAFORMER[0]), ("dict", export.DAFORMER[1])):
        statsvc("import", tmp_path / "gta" / file, "--name", name, "--home", home.folder)
        table = open_current(home, name)
        assert table.array("path").tolist() == sorted(MAPS)
        counted = {path: [int((labels == k).sum()) for k in range(5)] for path, labels in MAPS.items()}
        rows = np.concatenate([block.counts for block in table.blocks()])
        assert rows.tolist() == [counted[path] for path in sorted(MAPS)]
        assert table.totals().images is not None
        table.verify()
        assert set(table.configuration.splits) == {"train", "val"}
    publish(home, "street", MAPS, splits=open_current(home, "imported").configuration.splits)
    street, imported = open_current(home, "street"), open_current(home, "imported")
    for method in ("median_freq", "sqrt_inv_freq", "effective_num"):
        for split in (None, "val"):
            spec = WeightSpec(method=method, split=split)
            expected, response = weights_response(street, spec), weights_response(imported, spec)
            np.testing.assert_allclose(response["weights"], expected["weights"], rtol=1e-12)
            images = [[row["images"] for row in body["classes"]] for body in (response, expected)]
            assert images[0] == images[1]


def test_an_exported_csv_of_counts_can_be_imported_without_loss(home: Home, tmp_path: Path) -> None:
    publish(home, "street", MAPS, class_names=("road", "car, parked"), num_classes=5)
    file = tmp_path / "counts.csv"
    export_street(home, "csv", file)
    statsvc("import", file, "--name", "imported", "--home", home.folder)
    exported, imported = open_current(home, "street").totals(), open_current(home, "imported").totals()
    assert exported.class_id.tolist() == imported.class_id.tolist() == [0, 1, 2, 3, 4, 255]
    assert exported.pixels.tolist() == imported.pixels.tolist()
    assert exported.images is not None
    assert imported.images is not None
    assert exported.images.tolist() == imported.images.tolist()
    rows = {row["id"]: row for row in csv.DictReader(file.read_text().splitlines())}
    assert (rows["1"]["name"], rows["1"]["class"], rows["255"]["class"]) == ("car, parked", "1", "")
    body = weights_response(open_current(home, "street"), WeightSpec())
    assert [float(rows[str(k)]["weight"]) for k in range(5)] == body["weights"]


def test_an_export_with_a_class_map_contains_class_ids(home: Home, tmp_path: Path) -> None:
    publish(home, "street", {"a.png": np.array([[7, 8, 8, 0, 33]], np.uint8)})
    export_street(home, "daformer", tmp_path / "out", "--class-map", "cityscapes")
    stats = json.loads((tmp_path / "out" / export.DAFORMER[0]).read_text())
    assert stats == [{"0": 1, "1": 2, "18": 1, "file": "a.png"}]


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_the_mmseg_export_keeps_the_initial_loss(home: Home, tmp_path: Path, suffix: str) -> None:
    torch = pytest.importorskip("torch")
    publish(home, "street", MAPS)
    file = tmp_path / f"class_weight{suffix}"
    export_street(home, "mmseg", file)
    # Read like `mmseg.models.losses.utils.get_class_weight`.
    weight = np.load(file) if suffix == ".npy" else json.loads(file.read_text())
    labels = torch.from_numpy(np.stack([MAPS[path] for path in sorted(MAPS)])).long()
    logits = torch.zeros(len(labels), 5, *labels.shape[1:])  # the same loss for every pixel
    loss = {
        name: torch.nn.functional.cross_entropy(logits, labels, weight=w, reduction="none", ignore_index=255)
        for name, w in (("plain", None), ("weighted", logits.new_tensor(weight)))
    }
    torch.testing.assert_close(loss["weighted"].mean(), loss["plain"].mean())


def test_weights_can_be_exported_as_npy_and_pth(home: Home, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    publish(home, "street", MAPS)
    export_street(home, "npy", tmp_path / "w.npy", "--method", "median_freq")
    export_street(home, "pth", tmp_path / "w.pth", "--method", "median_freq")
    pixels = np.array([sum(int((m == k).sum()) for m in MAPS.values()) for k in range(5)])
    pixels_of_images = np.array(
        [sum(int((m < 255).sum()) for m in MAPS.values() if (m == k).any()) for k in range(5)]
    )
    frequency = pixels / pixels_of_images
    expected = np.median(frequency) / frequency
    expected /= expected.mean()
    stored = np.load(tmp_path / "w.npy")
    assert stored.dtype == np.float64
    np.testing.assert_allclose(stored, expected, rtol=1e-12)
    tensor = torch.load(tmp_path / "w.pth", weights_only=True)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


def test_weights_can_be_exported_as_yaml_and_as_a_dict(home: Home, tmp_path: Path) -> None:
    names = ("road", "a # b", "line\nbreak", "日本", "rare")
    publish(home, "street", MAPS, class_names=names)
    expected = weights_response(open_current(home, "street"), WeightSpec(method="inverse_freq"))["weights"]
    for name in ("w.yaml", "w.py", "w.json"):
        form = "yaml" if name == "w.yaml" else "dict"
        export_street(home, form, tmp_path / name, "--method", "inverse_freq")
    text = (tmp_path / "w.yaml").read_text()
    assert yaml.safe_load(text) == {"class_weight": expected}
    assert text.startswith("# weights by inverse_freq of street version 1\n")
    assert "  # line\\nbreak\n" in text
    assert runpy.run_path(str(tmp_path / "w.py"))["class_weight"] == dict(enumerate(expected))
    assert json.loads((tmp_path / "w.json").read_text()) == {str(k): w for k, w in enumerate(expected)}


def test_tiny_weights_stay_numbers_in_yaml(home: Home, tmp_path: Path) -> None:
    publish(home, "street", {"a.png": np.arange(12).reshape(3, 4).astype(np.uint8) % 3})
    export_street(home, "yaml", tmp_path / "w.yml", "--multiply", "0:1e-9", "--normalize", "none")
    stored = yaml.safe_load((tmp_path / "w.yml").read_text())["class_weight"]
    assert all(type(weight) is float for weight in stored)
    assert 0 < stored[0] < 1e-8


def test_an_impossible_export_fails_with_the_reason(home: Home, tmp_path: Path) -> None:
    publish(home, "street", MAPS)
    file = tmp_path / "w.txt"
    stderr = statsvc("export", "--format", "mmseg", "-o", file, "--home", home.folder, code=2)
    assert ".json or .npy" in stderr
    assert not file.exists()
    table = open_current(home, "street")
    with pytest.raises(Unanswerable, match="class_weight"):
        export.mmseg_json(table, WeightSpec(method="logit_adjustment"))


def test_samples_imported_over_http_support_methods_that_count_images(client: TestClient) -> None:
    samples = daformer_files(MAPS)[0]
    body = {"samples": samples, "class_names": list("abcde")}
    response = client.post("/datasets/gta/versions/import", json=body)
    assert response.status_code == 201, response.text
    version = response.json()
    assert (version["dataset"], version["number"], version["kind"], version["samples"]) == (
        "gta",
        1,
        "import",
        len(MAPS),
    )
    weights = client.get("/weights?dataset=gta&method=median_freq").json()
    images = Counter(key for sample in samples for key in sample if key != "file")
    assert [row["images"] for row in weights["classes"]] == [images[str(k)] for k in range(5)]
    page = client.get("/datasets/gta/samples?limit=1").json()["samples"][0]
    assert (page["height"], page["pixels"]) == (None, sum(n for k, n in samples[0].items() if k != "file"))
    assert client.get("/datasets/gta/sampling?sampler=rare_class").status_code == 200


def test_totals_imported_over_http_support_the_methods_that_need_no_more(client: TestClient) -> None:
    counts = {"0": 900, "1": 100}
    assert client.post("/datasets/t/versions/import", json={"counts": counts}).json()["number"] == 1
    assert client.get("/weights?dataset=t").status_code == 200
    rejected = client.get("/weights?dataset=t&method=median_freq")
    assert (rejected.status_code, rejected.json()["type"]) == (422, "/problems/unanswerable")
    body = {"counts": counts, "images": {"0": 10, "1": 5}}
    assert client.post("/datasets/t/versions/import", json=body).json()["number"] == 2
    over_images = client.get("/weights?dataset=t&method=effective_num&unit=images&beta=0.9&normalize=none")
    expected = [0.1 / (1 - 0.9**10), 0.1 / (1 - 0.9**5)]
    np.testing.assert_allclose(over_images.json()["weights"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("body", "field", "word"),
    [
        ({}, "counts", "either counts"),
        ({"counts": {"0": 1}, "samples": []}, "counts", "either counts"),
        ({"counts": {}}, "counts", "no counts"),
        ({"counts": {"7": 1, "07": 2}}, "counts", "id 7 occurs twice"),
        ({"counts": {"road": 1}}, "counts", "'road' must be an integer"),
        ({"counts": {"0": -4}}, "counts", "-4 must not be negative"),
        ({"counts": {"0": 4}, "images": {"1": 1}}, "counts", "must be in both counts and images"),
        ({"samples": [{"0": 4}]}, "samples", "must be the name"),
        ({"samples": [{"file": "a", "0": 4}, {"file": "a", "0": 4}]}, "samples", "twice"),
        ({"samples": [{"file": "a", "0": 0.5}]}, "samples", "0.5"),
        ({"samples": [{"file": "a", "0": 2**62}, {"file": "b", "0": 2**62}]}, "samples", "exceeds"),
        ({"counts": {"0": 1}, "source": "/etc"}, "source", "unknown field"),
    ],
)
def test_invalid_counts_are_rejected_with_the_name_of_the_field(
    client: TestClient, body: Any, field: str, word: str
) -> None:
    response = client.post("/datasets/x/versions/import", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["parameter"] == field
    assert word in response.json()["detail"]
    assert client.get("/datasets/x").status_code == 404  # nothing was registered


def test_a_dataset_with_a_source_rejects_imports(home: Home, client: TestClient) -> None:
    publish(home, "street", MAPS)
    response = client.post("/datasets/street/versions/import", json={"counts": {"0": 1}})
    assert response.status_code == 409
    assert "/labels/street" in response.json()["detail"]
