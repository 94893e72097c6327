"""The OpenAPI document: every response has a schema, and every schema has a valid example."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from support.contract import PROBLEM, ApiClient, Contract
from support.publishing import label_maps, publish, refresh_catalog_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from statsvc.store.home import Home


def operations(client: ApiClient) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in client.contract.document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_has_a_stable_id_a_tag_and_a_summary(shared_client: ApiClient) -> None:
    ids = [operation["operationId"] for _, operation in operations(shared_client)]
    assert len(ids) == len(set(ids))
    assert {"get_weights", "get_methods", "list_datasets", "get_dataset", "create_job"} <= set(ids)
    tags = {tag["name"] for tag in shared_client.contract.document["tags"]}
    for name, operation in operations(shared_client):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation["operationId"]), name
        assert set(operation["tags"]) <= tags, name
        assert re.fullmatch(r"[A-Z].*\.", operation["summary"]), name
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (name, parameter["name"])
            # Generated clients would send it in every request, even with a method that rejects the parameter.
            assert "default" not in parameter["schema"], (name, parameter["name"])


def test_every_successful_response_has_a_schema(shared_client: ApiClient) -> None:
    for name, operation in operations(shared_client):
        succeeded = [status for status in operation["responses"] if status.startswith("2")]
        assert succeeded, name
        for status in succeeded:
            content = operation["responses"][status].get("content", {})
            assert content or status == "204", (name, status)
            for media_type, description in content.items():
                assert description.get("schema", description.get("itemSchema")), (name, status, media_type)
                assert media_type != "application/json" or "$ref" in description["schema"], (name, status)


def test_every_error_is_a_problem_with_an_example_of_each_type(shared_client: ApiClient) -> None:
    for name, operation in operations(shared_client):
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            assert list(response["content"]) == [PROBLEM], (name, status)
            content = response["content"][PROBLEM]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, (name, status)
            assert content["examples"]
            for kind, example in content["examples"].items():
                assert example["value"]["type"] == f"/problems/{kind}"
                assert example["value"]["status"] == int(status)
                assert example["value"]["detail"], kind
                shared_client.contract.validate(content["schema"], example["value"])


def test_every_example_conforms_to_its_schema(shared_client: ApiClient) -> None:
    answers = {
        description["schema"]["$ref"]
        for _, operation in operations(shared_client)
        for status, response in operation["responses"].items()
        for media_type, description in response.get("content", {}).items()
        if status.startswith("2") and media_type == "application/json"
    }
    assert len(answers) > 15
    for reference in answers:
        schema = shared_client.contract.document["components"]["schemas"][reference.rpartition("/")[2]]
        assert schema["examples"], reference
        for example in schema["examples"]:
            shared_client.contract.validate(schema, example)


def test_a_response_that_is_not_documented_fails_the_check(shared_client: ApiClient) -> None:
    response = shared_client.get("/weights")
    document = shared_client.contract.document
    fields = dict(document["components"]["schemas"]["WeightsResponse"]["properties"])
    del fields["warnings"]
    schemas = document["components"]["schemas"]
    smaller = {**schemas, "WeightsResponse": {**schemas["WeightsResponse"], "properties": fields}}
    with pytest.raises(Exception, match="'warnings' was unexpected"):
        Contract({**document, "components": {"schemas": smaller}}).check(response)
    without = {path: methods for path, methods in document["paths"].items() if path != "/weights"}
    with pytest.raises(AssertionError, match="undocumented operation"):
        Contract({**document, "paths": without}).check(response)


def test_the_events_of_a_job_are_documented(shared_client: ApiClient, shared_home: Home) -> None:
    catalog = Catalog.open(shared_home.database)
    job, _ = jobs.submit(catalog, catalog.dataset("street"))
    leased = jobs.lease(catalog, "test/1/1")
    assert leased is not None
    jobs.fail(catalog, leased, "the source is empty")
    catalog.close()
    events = shared_client.get(f"/jobs/{job.id}/events")
    assert events.headers["content-type"].startswith("text/event-stream")
    assert "id: end\nevent: job\ndata: {" in events.text
    ended = shared_client.get(f"/jobs/{job.id}/events", headers={"Last-Event-ID": "end"})
    assert (ended.status_code, ended.content) == (204, b"")
    assert shared_client.get("/jobs/none/events").status_code == 404


def test_reports_of_the_doctor_are_documented(
    shared_client: ApiClient, shared_home: Home, tmp_path: Path
) -> None:
    maps = label_maps()
    maps["train/000.png"][1:3] = 9
    publish(
        shared_home, "odd", {**maps, "copy.png": maps["train/001.png"], "bad.png": "cut off"}, num_classes=4
    )
    refresh_catalog_state(shared_client)
    report = shared_client.get("/datasets/odd/doctor").json()
    assert "unexpected_ids" in {finding["code"] for finding in report["findings"]}
    assert shared_client.get("/datasets/odd/doctor?version=1").headers["cache-control"].startswith("public")


def test_an_unknown_split_is_404_and_names_the_split(shared_client: ApiClient) -> None:
    for path in ("/weights?dataset=street", "/datasets/street/histogram?", "/datasets/street/sampling?"):
        sampler = "&sampler=rare_class" if "sampling" in path else ""
        response = shared_client.get(f"{path}&split=holdout{sampler}")
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/not-found"
        assert "holdout" in response.json()["detail"]
