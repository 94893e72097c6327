"""Objects over HTTP, and weights and samplers that count objects, against NumPy over Cityscapes-like ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import statsvc as library
from statsvc.api.app import build_app
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.store import home as homes
from support.commands import statsvc
from support.contract import ApiClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGES = 8
ROAD, PERSON, CAR = 7, 24, 26


def instance_maps() -> dict[str, np.ndarray[Any, Any]]:
    """Return ids as in Cityscapes: a road, three small persons in each image, and one car in two of them."""
    maps = {}
    for number in range(IMAGES):
        ids = np.full((80, 120), ROAD, np.uint16)
        for person in range(3):
            ids[5 : 10 + person, 10 * person : 10 * person + 9] = 1000 * PERSON + person
        if number < 2:
            ids[40:80, 20 : 60 + 10 * number] = 1000 * CAR
        maps[f"{number}.png"] = ids
    return maps


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objects")
    (root / "labels").mkdir()
    for name, ids in instance_maps().items():
        Image.fromarray(ids).save(root / "labels" / name)
    for name, options in (("street", ("--rule", "id // 1000")), ("plain", ("--rule", "value"))):
        statsvc("scan", root / "labels", "--name", name, *options, "--home", root / "home")
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[ApiClient]:
    with ApiClient(build_app(homes.resolve(str(root / "home")))) as client:
        yield client


def test_the_histogram_has_number_and_sizes_of_objects(client: ApiClient) -> None:
    rows = {row["id"]: row for row in client.get("/datasets/street/histogram").json()["classes"]}
    person = np.tile([9 * 5, 9 * 6, 9 * 7], IMAGES)
    assert rows[PERSON]["objects"] == {
        "count": len(person),
        "smallest": person.min(),
        "median": np.median(person),
        "below_16": 1.0,
        "below_32": 1.0,
        "sizes": [0, 0, 0, 0, 0, (person < 64).sum()],
    }
    assert rows[CAR]["objects"]["median"] == np.median([40 * 40, 40 * 50])
    assert (rows[CAR]["objects"]["below_32"], rows[CAR]["objects"]["sizes"]) == (0.0, [0] * 10 + [2])
    nothing = dict.fromkeys(("smallest", "median", "below_16", "below_32"))
    assert rows[ROAD]["objects"] == {"count": 0, **nothing, "sizes": []}
    plain = client.get("/datasets/plain/histogram").json()["classes"]
    assert not any("objects" in row for row in plain)


def test_effective_num_and_repeat_factors_count_objects(client: ApiClient, root: Path) -> None:
    # The road is not divided into objects: it counts once per image.
    objects = np.array([IMAGES, 3 * IMAGES, 2])
    body = client.get("/weights?dataset=street&method=effective_num&unit=objects&beta=0.9").json()
    expected = 0.1 / (1 - 0.9**objects)
    weights = [body["weights"][raw] for raw in (ROAD, PERSON, CAR)]
    np.testing.assert_allclose(weights, expected / expected.mean())
    assert [body["classes"][raw]["objects"] for raw in (ROAD, PERSON, CAR)] == objects.tolist()
    codes = {warning["code"]: warning["message"] for warning in body["warnings"]}
    assert "do not divide 7 into objects" in codes["without_objects"]
    pixels = client.get("/weights?dataset=street&method=effective_num&beta=0.9").json()
    assert "objects" not in pixels["classes"][CAR]

    query = "sampler=repeat_factor&threshold=0.25&unit=objects"
    sampling = client.get(f"/datasets/street/sampling?{query}").json()
    repeats = np.maximum(1, np.sqrt(0.25 / (objects / objects.sum())))
    np.testing.assert_allclose([row["repeats"] for row in sampling["classes"]], repeats)
    assert [row["objects"] for row in sampling["classes"]] == objects.tolist()
    image = np.where([number < 2 for number in range(IMAGES)], repeats.max(), repeats[:2].max())
    probability = [sample["probability"] for sample in sampling["samples"]]
    np.testing.assert_allclose(probability, image / image.sum())
    stream = client.get(f"/weights?dataset=street&{query}").json()
    assert (stream["spec"]["unit"], stream["stream"]["sampler"]) == ("objects", "repeat_factor")
    by_images = client.get("/weights?dataset=street&sampler=repeat_factor&threshold=0.25").json()
    assert by_images["spec"]["unit"] == "images"
    assert stream["classes"][CAR]["seen"] > by_images["classes"][CAR]["seen"]

    table = library.scan(root / "labels", rule="id // 1000")
    local = table.weights("effective_num", unit="objects", beta=0.9)
    assert local.to_dict()["weights"] == body["weights"]
    drawn = table.sampling("repeat_factor", threshold=0.25, unit="objects")
    assert drawn.classes == sampling["classes"]


def test_without_objects_a_request_for_them_says_where_they_come_from(client: ApiClient) -> None:
    for url in (
        "/weights?dataset=plain&method=effective_num&unit=objects",
        "/datasets/plain/sampling?sampler=repeat_factor&unit=objects",
    ):
        response = client.get(url)
        assert response.status_code == 422
        assert "objects of plain are not known" in response.json()["detail"]
        assert "id // 1000" in response.json()["detail"]
    response = client.get("/datasets/street/sampling?sampler=rare_class&unit=objects")
    assert (
        "belongs to method=effective_num or sampler=repeat_factor" in response.json()["errors"][0]["message"]
    )


def test_the_doctor_reports_objects_that_an_output_stride_cannot_resolve(client: ApiClient) -> None:
    found = {each["code"]: each for each in client.get("/datasets/street/doctor").json()["findings"]}
    finding = found["small_objects"]
    assert (finding["level"], finding["ids"], finding["count"]) == ("notice", [PERSON], IMAGES)
    assert "24 100% (100%; median 54, smallest 45 pixels)" in finding["saw"]
    assert finding["files"] == [f"{number}.png" for number in range(5)]
    assert "small_objects" not in str(client.get("/datasets/plain/doctor").json())


def test_a_scan_in_memory_rejects_units_of_other_methods(root: Path) -> None:
    table = library.scan(root / "labels", rule="id // 1000")
    with pytest.raises(InvalidParameter, match="unit belongs to method=effective_num"):
        table.weights("inverse_freq", unit="objects")
    with pytest.raises(Unanswerable, match="objects of labels are not known"):
        library.scan(root / "labels").weights("effective_num", unit="objects")
