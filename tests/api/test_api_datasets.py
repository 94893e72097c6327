"""Datasets, their versions, samples, histograms and jobs over HTTP."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from statsvc.api.app import build_app
from statsvc.dataset.configuration import Configuration
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from support.contract import ApiClient
from support.publishing import label_maps, publish, refresh_catalog_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.store.catalog.records import Job
    from statsvc.store.home import Home

MAPS = label_maps()
JSON = {"Content-Type": "application/json"}
NAMES = ["road", "car", "person", "bicycle"]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "labels"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def client(home: Home, tmp_path: Path) -> Iterator[ApiClient]:
    with ApiClient(build_app(home, roots=[tmp_path / "data"])) as client:
        yield client


def end_job(home: Home) -> Job:
    """Lease the queued job and fail it, like a runner that could not read a sample."""
    catalog = Catalog.open(home.database)
    job = jobs.lease(catalog, "test/1/1")
    assert job is not None
    progress = {"total": 3, "failed": 1, "failures": [{"path": "a.png", "error": "cut off"}]}
    jobs.fail(catalog, job, "1 of 3 could not be read", progress)
    catalog.close()
    return job


def parameters(response: Any) -> list[str]:
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "/problems/invalid-parameter"
    return [error["parameter"] for error in response.json()["errors"]]


def test_a_dataset_is_registered_with_its_first_scan_queued(client: ApiClient, labels: Path) -> None:
    body = {"name": "street", "source": str(labels), "class_names": NAMES, "class_map": "binary"}
    response = client.post("/datasets", json=body)
    assert response.status_code == 201
    assert response.headers["location"] == "/datasets/street"
    made = response.json()
    assert (made["job"]["state"], made["version"], made["pattern"]) == ("queued", None, None)
    described = client.get(response.headers["location"]).json()
    assert described["source"] == str(labels)
    assert described["configuration"]["class_names"] == NAMES
    assert described["configuration"]["class_map"]["name"] == "binary"
    assert [job["id"] for job in described["jobs"]] == [made["job"]["id"]]
    assert client.get("/datasets").json()["datasets"][0]["job"]["state"] == "queued"
    assert client.get("/weights").status_code == 404


def test_the_counting_rule_is_set_at_registration_only(client: ApiClient, labels: Path) -> None:
    body = {"name": "street", "source": str(labels), "rule": "id // 1000", "key": "seg.png", "rows": "chunk"}
    assert client.post("/datasets", json=body).status_code == 201
    described = client.get("/datasets/street").json()["configuration"]["counting"]
    assert described == {"rule": "id // 1000", "key": "seg.png", "rows": "chunk"}
    assert client.patch("/datasets/street", json={"rule": "camvid"}).status_code == 422
    (labels / "mine.csv").write_text("r,g,b,id\n0,0,0,0\n")
    # The server would read a palette file with its own permissions, outside the roots.
    wrong = {"name": "b", "source": str(labels), "rule": str(labels / "mine.csv")}
    assert parameters(client.post("/datasets", json=wrong)) == ["rule"]


def test_a_layout_sets_what_the_request_does_not(client: ApiClient, labels: Path) -> None:
    body: dict[str, Any] = {"name": "camvid", "source": str(labels), "layout": "camvid"}
    made = client.post("/datasets", json=body).json()
    assert made["pattern"] == "**/{train,val,test}annot/*.png"
    assert made["configuration"]["ignore_index"] == [11]
    assert made["configuration"]["selection"]["layout"] == "camvid"
    body |= {"name": "b", "pattern": "*.png", "ignore_index": [255]}
    made = client.post("/datasets", json=body).json()
    assert (made["pattern"], made["configuration"]["ignore_index"]) == ("*.png", [255])
    colors = client.post("/datasets", json={"name": "i", "source": str(labels), "layout": "isaid"}).json()
    assert colors["configuration"]["counting"]["palette"]["name"] == "isaid"
    assert parameters(client.post("/datasets", json=body | {"name": "c", "layout": "vok"})) == ["layout"]


def test_a_dataset_name_in_use_is_a_conflict(client: ApiClient, labels: Path) -> None:
    body = {"name": "street", "source": str(labels)}
    assert client.post("/datasets", json=body).status_code == 201
    again = client.post("/datasets", json=body)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/conflict")


def test_sources_outside_the_roots_are_forbidden(client: ApiClient, labels: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (labels / "link").symlink_to(tmp_path / "secret")
    outside = [
        str(tmp_path / "secret"),
        str(tmp_path / "not there"),
        str(labels / "link"),
        str(labels / ".." / ".." / "secret"),
        str(tmp_path / "data-not"),
        "/",
    ]
    for source in outside:
        response = client.post("/datasets", json={"name": "x", "source": source})
        assert (response.status_code, response.json()["type"]) == (403, "/problems/forbidden-source")
        assert "statsvc serve --root" in response.json()["detail"]
        assert str(tmp_path / "data") in response.json()["detail"]
    assert client.get("/datasets").json()["datasets"] == []


def test_a_link_that_stays_inside_the_roots_is_followed(client: ApiClient, labels: Path) -> None:
    link = labels.parent / "link"
    link.symlink_to(labels)
    response = client.post("/datasets", json={"name": "x", "source": str(link)})
    assert response.status_code == 201
    assert response.json()["source"] == str(labels)


def test_a_source_is_an_absolute_path_to_a_folder(client: ApiClient, labels: Path) -> None:
    (labels / "file.png").write_bytes(b"")
    for source in ("labels", "", "~/labels", "/\0"):
        assert parameters(client.post("/datasets", json={"name": "x", "source": source})) == ["source"]
    for wrong, reason in ((labels / "none", "does not exist"), (labels / "file.png", "is a file")):
        response = client.post("/datasets", json={"name": "x", "source": str(wrong)})
        assert (response.status_code, response.json()["type"]) == (422, "/problems/source")
        assert f"{wrong} {reason}" in response.json()["detail"]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"name": "a b"}, "name"),
    ({"name": "../x"}, "name"),
    ({"name": 7}, "name"),
    ({"patern": "*.png"}, "patern"),
    ({"pattern": "../*.png"}, "pattern"),
    ({"pattern": "/etc/*"}, "pattern"),
    ({"pattern": ""}, "pattern"),
    ({"class_map": "citiscapes"}, "class_map"),
    ({"class_map": {"map": {"x": 0}}}, "class_map"),
    ({"class_map": {"map": {"1": 0.5}}}, "class_map"),
    ({"class_map": {"map": {}}}, "class_map"),
    ({"class_map": {"map": {"1": 0}, "nams": []}}, "class_map"),
    ({"class_map": 3}, "class_map.str"),
    ({"class_names": ["a", "b"], "num_classes": 1}, "class_names"),
    ({"class_names": ["a", " "]}, "class_names"),
    ({"class_names": "a,b"}, "class_names"),
    ({"ignore_index": [2**63]}, "ignore_index"),
    ({"ignore_index": 255}, "ignore_index"),
    ({"ignore_index": [True]}, "ignore_index.0"),
    ({"num_classes": 0}, "num_classes"),
    ({"num_classes": 65537}, "num_classes"),
    ({"num_classes": "3"}, "num_classes"),
    ({"splits": {"a b": ["x.png"]}}, "splits"),
    ({"splits": {"train": []}}, "splits"),
    ({"splits": {"train": {"folder": "holdout"}}}, "splits"),
    ({"splits": []}, "splits"),
]


def test_an_invalid_field_is_named(client: ApiClient, labels: Path) -> None:
    good = {"name": "x", "source": str(labels)}
    for fields, parameter in BAD_FIELDS:
        assert parameter in parameters(client.post("/datasets", json=good | fields)), fields
    assert client.get("/datasets").json()["datasets"] == []


def test_an_unknown_field_is_rejected_with_the_nearest_name(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    problem = client.patch("/datasets/street", json={"clas_names": [], "ignore": [1]}).json()
    assert [error["parameter"] for error in problem["errors"]] == ["clas_names", "ignore"]
    assert "did you mean 'class_names'?" in problem["detail"]


def test_patch_publishes_a_new_version_over_the_same_arrays(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    refresh_catalog_state(client)
    before = client.get("/weights?version=1&dataset=street")
    patched = client.patch("/datasets/street", json={"class_names": NAMES, "ignore_index": [0, 255]})
    assert patched.status_code == 200
    assert patched.json()["version"] == 2
    after = client.get("/weights?dataset=street").json()
    assert after["version"] == 2
    assert [row["name"] for row in after["classes"]] == NAMES
    assert after["weights"][0] == 0
    pinned = client.get("/weights?version=1&dataset=street")
    assert (pinned.content, pinned.headers["etag"]) == (before.content, before.headers["etag"])
    catalog = Catalog.open(home.database)
    newest, oldest = catalog.versions(catalog.dataset("street"))
    catalog.close()
    assert newest.arrays_uri == oldest.arrays_uri
    assert newest.digests == oldest.digests
    assert newest.kind == "configuration"


def test_an_application_that_starts_later_serves_older_versions(home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    with ApiClient(build_app(home)) as client:
        before = client.get("/weights?version=1")
        client.patch("/datasets/street", json={"num_classes": 5})
    with ApiClient(build_app(home)) as client:
        after = client.get("/weights?version=1")
        assert len(client.get("/weights").json()["weights"]) == 5
    assert (after.content, after.headers["etag"]) == (before.content, before.headers["etag"])


def test_a_patch_without_changes_publishes_no_version(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    assert client.patch("/datasets/street", json={"num_classes": 4}).json()["version"] == 1
    assert client.patch("/datasets/street", json={}).json()["version"] == 1


def test_null_restores_the_default_of_a_field(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=9, class_names=tuple(NAMES), ignore_index=(3,))
    body = {"num_classes": None, "class_names": None, "ignore_index": None, "splits": None}
    configuration = client.patch("/datasets/street", json=body).json()["configuration"]
    assert configuration == {
        "num_classes": 4,
        "class_names": [],
        "ignore_index": None,
        "class_map": None,
        "splits": {"train": {"folder": "train"}, "val": {"folder": "val"}},
    }


def test_another_class_map_has_its_own_number_of_classes(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4, class_names=tuple(NAMES))
    mapping = {"map": {"0": 0, "1": 1, "2": 1, "3": "ignore", "255": "ignore"}, "names": ["road", "thing"]}
    configuration = client.patch("/datasets/street", json={"class_map": mapping}).json()["configuration"]
    assert (configuration["num_classes"], configuration["class_names"]) == (2, [])
    answer = client.get("/weights").json()
    assert [row["name"] for row in answer["classes"]] == ["road", "thing"]
    things = sum(int(np.isin(labels, (1, 2)).sum()) for labels in MAPS.values())
    assert answer["classes"][1]["pixels"] == things
    # PATCH accepts the configuration that GET returns.
    again = client.patch("/datasets/street", json=configuration)
    assert (again.status_code, again.json()["version"]) == (200, 2)
    assert (
        client.patch("/datasets/street", json={"class_map": None}).json()["configuration"]["num_classes"] == 4
    )


def test_more_names_than_classes_are_rejected(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=3)
    assert parameters(client.patch("/datasets/street", json={"class_names": NAMES})) == ["class_names"]
    assert client.patch("/datasets/street", json={"class_names": NAMES, "num_classes": 4}).status_code == 200


def test_a_dataset_without_a_version_can_be_configured(client: ApiClient, labels: Path) -> None:
    client.post("/datasets", json={"name": "street", "source": str(labels)})
    patched = client.patch("/datasets/street", json={"num_classes": 7})
    assert patched.json()["configuration"]["num_classes"] == 7
    assert patched.json()["version"] is None


def test_named_splits_are_counted(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    chosen = sorted(MAPS)[:2]
    client.patch("/datasets/street", json={"splits": {"mine": chosen}})
    pixels = np.concatenate([MAPS[path].ravel() for path in chosen])
    classes = client.get("/weights?split=mine").json()["classes"]
    assert [row["pixels"] for row in classes] == [int((pixels == c).sum()) for c in range(4)]


def test_delete_is_rejected_during_a_job_cancels_a_queued_job_and_does_not_reuse_numbers(
    client: ApiClient, home: Home
) -> None:
    publish(home, "street", MAPS, num_classes=4)
    publish(home, "street", label_maps(1), num_classes=4)
    client.post("/jobs", json={"dataset": "street"})
    catalog = Catalog.open(home.database)
    running = jobs.lease(catalog, "elsewhere/1/1")
    assert running is not None
    queued = client.post("/jobs", json={"dataset": "street"}).json()["id"]
    rejected = client.delete("/datasets/street")
    assert (rejected.status_code, rejected.json()["type"]) == (409, "/problems/conflict")
    assert running.id in rejected.json()["detail"]
    assert client.get(f"/jobs/{queued}").json()["state"] == "queued"
    jobs.fail(catalog, running, "no")
    catalog.close()
    deleted = client.delete("/datasets/street")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get("/weights?dataset=street").status_code == 404
    assert client.get("/datasets/street").status_code == 404
    assert client.delete("/datasets/street").status_code == 404
    cancelled = client.get(f"/jobs/{queued}").json()
    assert (cancelled["state"], cancelled["error"]) == ("cancelled", "its dataset was deleted")
    assert publish(home, "street", MAPS, num_classes=4).number == 3
    refresh_catalog_state(client)
    assert client.get("/weights?dataset=street").json()["version"] == 3
    assert client.get("/weights?dataset=street&version=1").status_code == 404


def test_failures_are_named_with_their_reason(client: ApiClient, home: Home) -> None:
    bad = {f"train/bad{n:02}.png": f"reason {n}" for n in range(12)}
    publish(home, "street", {**MAPS, **bad}, num_classes=4)
    refresh_catalog_state(client)
    described = client.get("/datasets/street").json()
    assert (described["failed"], described["samples"]) == (12, 18)
    assert (
        described["failures"] == [{"path": path, "error": error} for path, error in sorted(bad.items())][:10]
    )
    assert client.get("/datasets").json()["datasets"][0]["failed"] == 12


def test_the_histogram_counts_every_id(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    refresh_catalog_state(client)
    answer = client.get("/datasets/street/histogram").json()
    pixels = np.concatenate([labels.ravel() for labels in MAPS.values()])
    ids, counts = np.unique(pixels, return_counts=True)
    assert [(row["id"], row["pixels"]) for row in answer["classes"]] == list(
        zip(ids.tolist(), counts.tolist(), strict=True)
    )
    mapped = client.get("/datasets/street/histogram?class_map=binary&split=none")
    assert mapped.status_code == 404
    assert parameters(client.get("/datasets/street/histogram?method=enet")) == ["method"]
    assert parameters(client.get("/datasets/street/histogram?num_classes=x")) == ["num_classes"]


def test_samples_are_paged_in_path_order_with_their_counts(client: ApiClient, home: Home) -> None:
    publish(home, "street", {**MAPS, "train/bad.png": "cut off"}, num_classes=4)
    refresh_catalog_state(client)
    rows: list[dict[str, Any]] = []
    after: str | None = ""
    pages = 0
    while after is not None:
        page = client.get(
            "/datasets/street/samples", params={"limit": 3, "after": after, "version": 1}
        ).json()
        rows, after, pages = rows + page["samples"], page["next"], pages + 1
    assert pages == 3
    assert [row["path"] for row in rows] == sorted([*MAPS, "train/bad.png"])
    for row in rows:
        if row["path"] == "train/bad.png":
            assert (row["status"], row["error"], row["counts"], row["height"]) == (
                "failed",
                "cut off",
                {},
                None,
            )
            continue
        ids, counts = np.unique(MAPS[row["path"]], return_counts=True)
        assert row["counts"] == {str(i): int(n) for i, n in zip(ids, counts, strict=True)}
        assert (row["height"], row["width"], row["pixels"], row["status"]) == (8, 12, 96, "counted")


def test_samples_are_filtered_by_status_and_raw_id(client: ApiClient, home: Home) -> None:
    odd = np.full((8, 12), 9, np.uint8)
    publish(home, "street", {**MAPS, "train/bad.png": "cut off", "odd.png": odd}, num_classes=4)
    refresh_catalog_state(client)

    def paths(**params: Any) -> list[str]:
        page = client.get("/datasets/street/samples", params=params).json()
        return [row["path"] for row in page["samples"]]

    assert paths(status="failed") == ["train/bad.png"]
    assert paths(status="counted") == sorted([*MAPS, "odd.png"])
    assert paths(class_id=9) == ["odd.png"]
    assert paths(class_id=8) == []
    assert paths(class_id=255, limit=2) == sorted(MAPS)[:2]
    for wrong in ("limit=0", "limit=1001", "status=bad", "class_id=x", "after=a&after=b", "page=2"):
        assert parameters(client.get(f"/datasets/street/samples?{wrong}")) == [wrong.partition("=")[0]]


def test_samples_are_paged_across_chunks_of_rows(client: ApiClient, home: Home) -> None:
    maps = {f"{n:05}.png": np.full((1, 2), n % 2, np.uint8) for n in range(4500)}
    publish(home, "many", maps, num_classes=2)
    refresh_catalog_state(client)
    listed: list[str] = []
    after: str | None = None
    while True:
        params = {"limit": "900", "class_id": "1", **({"after": after} if after else {})}
        page = client.get("/datasets/many/samples", params=params).json()
        listed += [row["path"] for row in page["samples"]]
        after = page["next"]
        if after is None:
            break
    assert listed == [path for path, labels in sorted(maps.items()) if labels[0, 0] == 1]


def test_versions_are_paged_newest_first(client: ApiClient, home: Home) -> None:
    for seed in range(5):
        publish(home, "street", label_maps(seed), num_classes=4)
    first = client.get("/datasets/street/versions?limit=3").json()
    assert [version["number"] for version in first["versions"]] == [5, 4, 3]
    assert first["current"] == 5
    rest = client.get(f"/datasets/street/versions?before={first['next']}").json()
    assert [version["number"] for version in rest["versions"]] == [2, 1]
    assert rest["next"] is None
    assert client.get("/datasets/none/versions").status_code == 404


def test_a_job_is_queued_merged_and_described(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    response = client.post("/jobs", json={"dataset": "street"})
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/jobs/{job['id']}"
    assert (job["state"], job["full"], job["dataset"], job["attempt"]) == ("queued", False, "street", 0)
    merged = client.post("/jobs", json={"dataset": "street", "full": True, "max_removed": 1}).json()
    assert (merged["id"], merged["full"], merged["max_removed"]) == (job["id"], True, 1)
    end_job(home)
    ended = client.get(response.headers["location"]).json()
    assert (ended["state"], ended["attempt"], ended["failed"]) == ("failed", 1, 1)
    assert ended["failures"] == [{"path": "a.png", "error": "cut off"}]
    assert ended["error"] == "1 of 3 could not be read"
    for time in ("created_at", "started_at", "finished_at"):
        assert ended[time].endswith("Z")
        assert datetime.fromisoformat(ended[time]).utcoffset() is not None


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "dataset"),
        ({"dataset": "street", "max_removed": 1.5}, "max_removed"),
        ({"dataset": "street", "max_removed": -0.1}, "max_removed"),
        ({"dataset": "street", "full": "yes"}, "full"),
        ({"dataset": "street", "estimate": {}}, "estimate"),
        ({"dataset": "street", "estimate": {"relative_error": 2}}, "estimate.relative_error"),
        ({"dataset": "street", "estimate": {"relative_error": 1}}, "estimate.relative_error"),
        ({"dataset": "street", "estimate": {"relative_error": 0}}, "estimate.relative_error"),
        ({"dataset": "street", "estimate": {"relative_error": 0.1, "samples": 9}}, "estimate"),
        ({"dataset": "street", "estimate": {"samples": 1}}, "estimate.samples"),
        (
            {"dataset": "street", "estimate": {"relative_error": 0.1, "confidence": 0.9999}},
            "estimate.confidence",
        ),
        (
            {"dataset": "street", "estimate": {"relative_error": 0.1, "confidence": 0.4}},
            "estimate.confidence",
        ),
        ({"dataset": "street", "ful": True}, "ful"),
        ([], "body"),
    ],
)
def test_an_invalid_job_is_rejected(client: ApiClient, body: Any, parameter: str) -> None:
    assert parameters(client.post("/jobs", json=body)) == [parameter]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_numbers_that_json_cannot_represent_are_rejected(client: ApiClient, number: str) -> None:
    content = f'{{"dataset": "street", "max_removed": {number}}}'
    response = client.post("/jobs", content=content, headers={"Content-Type": "application/json"})
    assert parameters(response) == ["max_removed"]


def test_unknown_jobs_and_datasets_are_404(client: ApiClient) -> None:
    assert client.get("/jobs/none").json()["type"] == "/problems/not-found"
    assert client.post("/jobs", json={"dataset": "none"}).status_code == 404
    assert client.patch("/datasets/none", json={}).status_code == 404


def test_imported_counts_have_no_samples_and_no_scan(client: ApiClient) -> None:
    response = client.post("/datasets/table/versions/import", json={"counts": {"0": 5, "1": 3, "2": 2}})
    assert response.status_code == 201, response.text
    frequency = [row["frequency"] for row in client.get("/weights").json()["classes"]]
    np.testing.assert_allclose(frequency, [0.5, 0.3, 0.2])
    for path in ("/datasets/table/samples", "/weights?method=median_freq"):
        assert client.get(path).json()["type"] == "/problems/unanswerable"
    assert client.post("/jobs", json={"dataset": "table"}).status_code == 409
    patched = client.patch("/datasets/table", json={"num_classes": None, "splits": None})
    assert (patched.status_code, patched.json()["configuration"]["num_classes"]) == (200, 3)


LONE = "\ud800"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"class_names": ["road", LONE]}, "class_names"),
        ({"class_map": {"map": {"0": 0}, "names": [LONE]}}, "class_map"),
        ({"class_map": {"map": {LONE: 0}}}, "class_map"),
        ({"splits": {"fold": [f"{LONE}.png"]}}, "splits"),
        ({"splits": {LONE: ["a.png"]}}, "splits"),
        ({LONE: 1}, "?"),
    ],
)
def test_text_that_utf8_cannot_encode_is_rejected_by_field_and_never_stored(
    client: ApiClient, home: Home, labels: Path, body: dict[str, Any], named: str
) -> None:
    publish(home, "street", MAPS, num_classes=4)
    refresh_catalog_state(client)
    new = {"name": "new", "source": str(labels)} | body
    for method, path, sent in (("POST", "/datasets", new), ("PATCH", "/datasets/street", body)):
        # `json.dumps` writes ASCII: the lone surrogate is sent as an escape sequence.
        response = client.request(method, path, content=json.dumps(sent), headers=JSON)
        assert parameters(response) == [named]
    assert [dataset["name"] for dataset in client.get("/datasets").json()["datasets"]] == ["street"]
    assert client.get("/weights").json()["version"] == 1


@pytest.mark.parametrize("field", ["name", "source", "pattern"])
def test_names_and_paths_that_utf8_cannot_encode_are_rejected(
    client: ApiClient, labels: Path, field: str
) -> None:
    body = {"name": "new", "source": str(labels), "pattern": "*.png"}
    sent = json.dumps(body | {field: body[field] + LONE})
    assert parameters(client.post("/datasets", content=sent, headers=JSON)) == [field]
    sent = json.dumps({"dataset": LONE})
    assert parameters(client.post("/jobs", content=sent, headers=JSON)) == ["dataset"]


def test_a_dataset_is_moved_to_another_folder_or_pattern_below_the_roots(
    client: ApiClient, home: Home, labels: Path, tmp_path: Path
) -> None:
    publish(home, "street", MAPS, source=str(labels), num_classes=4)
    refresh_catalog_state(client)
    other = labels.parent / "moved"
    labels.rename(other)
    moved = client.patch("/datasets/street", json={"source": str(other), "pattern": "*_labelIds.png"})
    assert moved.status_code == 200, moved.text
    assert (moved.json()["source"], moved.json()["pattern"]) == (str(other), "*_labelIds.png")
    assert moved.json()["version"] == 1  # the next job counts
    both = client.patch("/datasets/street", json={"pattern": None, "class_names": NAMES}).json()
    assert (both["source"], both["pattern"], both["version"]) == (str(other), None, 2)
    assert both["configuration"]["class_names"] == NAMES
    outside = client.patch("/datasets/street", json={"source": str(tmp_path)})
    assert (outside.status_code, outside.json()["type"]) == (403, "/problems/forbidden-source")
    assert client.patch("/datasets/street", json={"source": str(labels)}).status_code == 422  # gone
    for body, named in (({"source": None}, "source"), ({"pattern": "../*"}, "pattern")):
        assert parameters(client.patch("/datasets/street", json=body)) == [named]
    assert client.get("/datasets/street").json()["source"] == str(other)


def test_a_dataset_of_imported_counts_has_no_source_to_change(
    client: ApiClient, home: Home, labels: Path
) -> None:
    catalog = Catalog.open(home.database)
    catalog.create_dataset("table", None, None, Configuration())
    catalog.close()
    refresh_catalog_state(client)
    rejected = client.patch("/datasets/table", json={"source": str(labels)})
    assert (rejected.status_code, rejected.json()["type"]) == (409, "/problems/conflict")


def test_configuration_warnings_are_returned_over_http(client: ApiClient, home: Home) -> None:
    publish(home, "street", MAPS, num_classes=4)
    refresh_catalog_state(client)
    assert client.get("/datasets/street").json()["warnings"] == []
    splits = {"a": ["nope.png"], "b": ["train/000.png", "nope.png"]}
    empty = client.patch("/datasets/street", json={"splits": splits})
    assert empty.status_code == 422
    assert "splits: a: a list of 1" in empty.json()["detail"]
    body = {"class_names": NAMES[:2], "splits": {"b": splits["b"]}}
    warnings = client.patch("/datasets/street", json=body).json()["warnings"]
    assert warnings == client.get("/datasets/street").json()["warnings"]
    assert [line.partition(",")[0] for line in warnings] == [
        "2 class names for 4 classes: classes 2 to 3 have no name; give 4 names",
        "split b: 1 of 2 paths is not in the dataset",
    ]
    for path in ("/weights", "/datasets/street/histogram"):
        assert client.get(f"{path}?split=b").json()["images"] == 1


def test_datasets_are_paged_by_name_each_with_its_newest_job(client: ApiClient, home: Home) -> None:
    catalog = Catalog.open(home.database)
    newest = {}
    for number in range(5):
        dataset = catalog.create_dataset(f"d{number}", "/labels", "*.png", Configuration())
        for _ in range(number):
            job, _ = jobs.submit(catalog, dataset)
            leased = jobs.lease(catalog, "elsewhere/1/1")
            assert leased is not None
            jobs.fail(catalog, leased, "no")
            newest[dataset.name] = job.id
    catalog.close()
    seen: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = client.get("/datasets", params={"limit": 2, "after": after}).json()
        assert 0 < len(page["datasets"]) <= 2
        seen += page["datasets"]
        after = page["next"]
    assert [dataset["name"] for dataset in seen] == ["d0", "d1", "d2", "d3", "d4"]
    assert {d["name"]: d["job"]["id"] for d in seen if d["job"] is not None} == newest
    assert client.get("/datasets").json() == {"datasets": seen, "next": None}
    assert parameters(client.get("/datasets?limit=0")) == ["limit"]


def test_the_api_documentation_loads_nothing_from_other_servers(client: ApiClient) -> None:
    page = client.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) >= 2
    for address in addresses:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    assert "https://" not in page
    assert client.get("/redoc").status_code == 404
