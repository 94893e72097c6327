"""Counts from elsewhere become versions, and versions become files that other projects read."""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from statsvc.cli import cli
from statsvc.errors import Unanswerable
from statsvc.sampling.weights import weights_response
from statsvc.store.catalog.catalog import Catalog
from statsvc.store.publication import open_version
from statsvc.weighting import export
from statsvc.weighting.parameters import WeightSpec
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.testclient import TestClient

    from statsvc.store.home import Home
    from statsvc.store.versions.version import Version

MAPS = label_maps(seed=3, images=9, classes=5) | {"train/void.png": np.full((8, 12), 255, np.uint8)}


def opened(home: Home, name: str) -> Version:
    catalog = Catalog.open(home.database)
    dataset = catalog.dataset(name)
    version = open_version(home.store, name, catalog.version(dataset))
    catalog.close()
    return version


def by_converter(maps: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return what DAFormer's `convert_to_train_id` and `save_class_stats` leave of these label maps."""
    stats = []
    for file in sorted(maps):
        one: dict[str, Any] = {}
        for class_id in range(5):
            n = int(np.sum(maps[file] == class_id))
            if n > 0:
                one[str(class_id)] = n
        stats.append(one | {"file": file})
    by_file = {one["file"]: {key: n for key, n in one.items() if key != "file"} for one in stats}
    with_class: dict[str, list[list[Any]]] = {}
    for file, one in by_file.items():
        for class_id, n in one.items():
            with_class.setdefault(class_id, []).append([file, n])
    return stats, by_file, with_class


def statsvc(*arguments: str | Path, code: int = 0) -> str:
    """Run a command in this process; return what it printed on stderr."""
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stderr


def exported(home: Home, form: str, output: Path, *options: str) -> None:
    statsvc("export", "street", "--format", form, "-o", output, *options, "--home", home.folder)


def test_daformers_three_files_are_those_its_converter_writes(home: Home, tmp_path: Path) -> None:
    publish(home, "street", MAPS)
    folder = tmp_path / "gta"
    exported(home, "daformer", folder)
    for name, expected in zip(export.DAFORMER, by_converter(MAPS), strict=True):
        text = (folder / name).read_text()
        assert text == json.dumps(expected, indent=2), name  # the order of keys too


def test_exported_statistics_come_back_as_rows_with_the_same_counts_and_weights(
    home: Home, tmp_path: Path
) -> None:
    publish(home, "street", MAPS)
    exported(home, "daformer", tmp_path / "gta")
    for name, file in (("back", export.DAFORMER[0]), ("dict", export.DAFORMER[1])):
        statsvc("import", tmp_path / "gta" / file, "--name", name, "--home", home.folder)
        table = opened(home, name)
        assert table.array("path").tolist() == sorted(MAPS)
        counted = {path: [int((labels == k).sum()) for k in range(5)] for path, labels in MAPS.items()}
        rows = np.concatenate([block.counts for block in table.blocks()])
        assert rows.tolist() == [counted[path] for path in sorted(MAPS)]
        assert table.totals().images is not None
        table.verify()
        assert set(table.configuration.splits) == {"train", "val"}
    publish(home, "street", MAPS, splits=opened(home, "back").configuration.splits)
    street, back = opened(home, "street"), opened(home, "back")
    for method in ("median_freq", "sqrt_inv_freq", "effective_num"):
        for split in (None, "val"):
            spec = WeightSpec(method=method, split=split)
            one, other = weights_response(street, spec), weights_response(back, spec)
            np.testing.assert_allclose(one["weights"], other["weights"], rtol=1e-12)
            assert [row["images"] for row in one["classes"]] == [row["images"] for row in other["classes"]]


def test_the_table_of_counts_comes_back_whole(home: Home, tmp_path: Path) -> None:
    publish(home, "street", MAPS, class_names=("road", "car, parked"), num_classes=5)
    file = tmp_path / "counts.csv"
    exported(home, "csv", file)
    statsvc("import", file, "--name", "back", "--home", home.folder)
    first, second = opened(home, "street").totals(), opened(home, "back").totals()
    assert first.class_id.tolist() == second.class_id.tolist() == [0, 1, 2, 3, 4, 255]
    assert first.pixels.tolist() == second.pixels.tolist()
    assert first.images is not None
    assert second.images is not None
    assert first.images.tolist() == second.images.tolist()
    rows = {row["id"]: row for row in csv.DictReader(file.read_text().splitlines())}
    assert (rows["1"]["name"], rows["1"]["class"], rows["255"]["class"]) == ("car, parked", "1", "")
    answer = weights_response(opened(home, "street"), WeightSpec())
    assert [float(rows[str(k)]["weight"]) for k in range(5)] == answer["weights"]


def test_classes_of_a_map_are_what_is_exported(home: Home, tmp_path: Path) -> None:
    publish(home, "street", {"a.png": np.array([[7, 8, 8, 0, 33]], np.uint8)})
    exported(home, "daformer", tmp_path / "out", "--class-map", "cityscapes")
    stats = json.loads((tmp_path / "out" / export.DAFORMER[0]).read_text())
    assert stats == [{"0": 1, "1": 2, "18": 1, "file": "a.png"}]


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_mmsegmentation_gets_weights_that_keep_its_loss_as_large_as_it_was(
    home: Home, tmp_path: Path, suffix: str
) -> None:
    torch = pytest.importorskip("torch")
    publish(home, "street", MAPS)
    file = tmp_path / f"class_weight{suffix}"
    exported(home, "mmseg", file)
    # As `mmseg.models.losses.utils.get_class_weight` reads it.
    weight = np.load(file) if suffix == ".npy" else json.loads(file.read_text())
    labels = torch.from_numpy(np.stack([MAPS[path] for path in sorted(MAPS)])).long()
    same = torch.zeros(len(labels), 5, *labels.shape[1:])  # the same loss everywhere, as at the start
    loss = {
        name: torch.nn.functional.cross_entropy(same, labels, weight=w, reduction="none", ignore_index=255)
        for name, w in (("plain", None), ("weighted", same.new_tensor(weight)))
    }
    torch.testing.assert_close(loss["weighted"].mean(), loss["plain"].mean())


def test_weights_are_written_as_npy_and_pth(home: Home, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    publish(home, "street", MAPS)
    exported(home, "npy", tmp_path / "w.npy", "--method", "median_freq")
    exported(home, "pth", tmp_path / "w.pth", "--method", "median_freq")
    pixels = np.array([sum(int((m == k).sum()) for m in MAPS.values()) for k in range(5)])
    inside = np.array([sum(int((m < 255).sum()) for m in MAPS.values() if (m == k).any()) for k in range(5)])
    frequency = pixels / inside
    expected = np.median(frequency) / frequency
    expected /= expected.mean()
    stored = np.load(tmp_path / "w.npy")
    assert stored.dtype == np.float64
    np.testing.assert_allclose(stored, expected, rtol=1e-12)
    tensor = torch.load(tmp_path / "w.pth", weights_only=True)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


def test_an_export_that_cannot_be_says_why(home: Home, tmp_path: Path) -> None:
    publish(home, "street", MAPS)
    file = tmp_path / "w.txt"
    told = statsvc("export", "--format", "mmseg", "-o", file, "--home", home.folder, code=2)
    assert ".json or .npy" in told
    assert not file.exists()
    table = opened(home, "street")
    with pytest.raises(Unanswerable, match="class_weight"):
        export.mmseg_json(table, WeightSpec(method="logit_adjustment"))


def test_samples_are_imported_over_http_and_answer_methods_over_images(client: TestClient) -> None:
    samples = by_converter(MAPS)[0]
    body = {"samples": samples, "class_names": list("abcde")}
    response = client.post("/datasets/gta/versions/import", json=body)
    assert response.status_code == 201, response.text
    made = response.json()
    assert (made["dataset"], made["number"], made["kind"], made["samples"]) == ("gta", 1, "import", len(MAPS))
    answer = client.get("/weights?dataset=gta&method=median_freq").json()
    images = Counter(key for one in samples for key in one if key != "file")
    assert [row["images"] for row in answer["classes"]] == [images[str(k)] for k in range(5)]
    page = client.get("/datasets/gta/samples?limit=1").json()["samples"][0]
    assert (page["height"], page["pixels"]) == (None, sum(n for k, n in samples[0].items() if k != "file"))
    assert client.get("/datasets/gta/sampling?sampler=rare_class").status_code == 200


def test_totals_imported_over_http_answer_what_they_can(client: TestClient) -> None:
    counts = {"0": 900, "1": 100}
    assert client.post("/datasets/t/versions/import", json={"counts": counts}).json()["number"] == 1
    assert client.get("/weights?dataset=t").status_code == 200
    refused = client.get("/weights?dataset=t&method=median_freq")
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unanswerable")
    body = {"counts": counts, "images": {"0": 10, "1": 5}}
    assert client.post("/datasets/t/versions/import", json=body).json()["number"] == 2
    over_images = client.get("/weights?dataset=t&method=effective_num&unit=images&beta=0.9&normalize=none")
    expected = [0.1 / (1 - 0.9**10), 0.1 / (1 - 0.9**5)]
    np.testing.assert_allclose(over_images.json()["weights"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("body", "field", "word"),
    [
        ({}, "counts", "one of them"),
        ({"counts": {"0": 1}, "samples": []}, "counts", "one of them"),
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
def test_counts_that_are_none_are_refused_by_field(
    client: TestClient, body: Any, field: str, word: str
) -> None:
    response = client.post("/datasets/x/versions/import", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["parameter"] == field
    assert word in response.json()["detail"]
    assert client.get("/datasets/x").status_code == 404  # nothing was registered


def test_a_dataset_that_is_counted_here_takes_no_imports(home: Home, client: TestClient) -> None:
    publish(home, "street", MAPS)
    response = client.post("/datasets/street/versions/import", json={"counts": {"0": 1}})
    assert response.status_code == 409
    assert "/labels/street" in response.json()["detail"]
