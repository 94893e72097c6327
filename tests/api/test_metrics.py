"""GET /metrics: what is counted, under which labels, and who may read it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from statsvc.api.app import build_app
from statsvc.api.http.access import Policy
from statsvc.api.routes import weights
from statsvc.api.state import metrics
from statsvc.store.catalog import job_rows, jobs, tokens
from statsvc.store.catalog.ended_jobs import EndedJobs
from support.catalogs import add_dataset
from support.contract import ApiClient
from support.publishing import label_maps, publish

if TYPE_CHECKING:
    import httpx2
    import pytest

    from statsvc.store.catalog.catalog import Catalog
    from statsvc.store.home import Home

REQUESTS = "statsvc_http_requests_total"


def scraped(response: httpx2.Response) -> dict[tuple[str, ...], float]:
    """Return the samples of a scrape: (name, value of each label by label name) → value."""
    assert response.status_code == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_method_route_template_and_status(home: Home) -> None:
    publish(home, "street", label_maps(), num_classes=4)
    with ApiClient(build_app(home)) as client:
        before = scraped(client.get("/metrics"))
        etag = client.get("/weights").headers["etag"]
        client.get("/weights", headers={"If-None-Match": etag})
        client.head("/weights")
        client.get("/weights?beta=2")
        client.get("/datasets/street")
        client.get("/datasets/nothing")
        client.post("/jobs/nothing/cancel")
        after = scraped(client.get("/metrics"))
    assert before[REQUESTS, "GET", "/weights", "200"] == 0  # exists before the first request
    counted = {
        key[1:]: value - before.get(key, 0.0)
        for key, value in after.items()
        if key[0] == REQUESTS and value != before.get(key)
    }
    assert counted == {
        ("GET", "/weights", "200"): 2,  # HEAD is counted as GET
        ("GET", "/weights", "304"): 1,
        ("GET", "/weights", "422"): 1,
        ("GET", "/datasets/{name}", "200"): 1,
        ("GET", "/datasets/{name}", "404"): 1,
        ("POST", "/jobs/{job_id}/cancel", "404"): 1,
        ("GET", "/metrics", "200"): 1,
    }
    seconds = "statsvc_http_request_duration_seconds"
    assert after[f"{seconds}_count", "GET", "/weights"] == 4
    assert 0 < after[f"{seconds}_sum", "GET", "/weights"] < 60


def test_no_request_can_add_a_route_or_method_to_the_labels(home: Home) -> None:
    with ApiClient(build_app(home)) as client:
        series = {key[1:3] for key in scraped(client.get("/metrics")) if key[0] == REQUESTS}
        for number in range(20):
            client.get(f"/nothing/{number}")
            client.get("/page/page.js")
            client.request(f"METHOD{number}", "/weights")
            client.get("/weights", headers={"Host": f"host{number}"})
        after = scraped(client.get("/metrics"))
    assert {key[1:3] for key in after if key[0] == REQUESTS} == series
    assert after[REQUESTS, "other", "other", "404"] == after[REQUESTS, "other", "other", "421"] == 20
    assert after[REQUESTS, "other", "other", "405"] == 20


def test_an_unforeseen_error_is_counted_as_500(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    app = build_app(home)

    def boom() -> None:
        raise ZeroDivisionError

    app.add_api_route("/boom", boom, include_in_schema=False)
    with ApiClient(app, raise_server_exceptions=False) as client:
        assert client.get("/boom").status_code == 500
        assert scraped(client.get("/metrics"))[REQUESTS, "other", "other", "500"] == 1
        monkeypatch.setattr(weights, "_parse_cached", boom)  # fails for its arguments
        answer = client.get("/weights")
        assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
        assert scraped(client.get("/metrics"))[REQUESTS, "GET", "/weights", "500"] == 1


def test_datasets_have_ages_and_beyond_the_limit_the_oldest_ones_remain(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_DATASETS", 2)
    started = time.time()
    for name in ("first", "second", "third"):
        publish(home, name, label_maps(), num_classes=4)
        time.sleep(0.01)
    with ApiClient(build_app(home)) as client:
        samples = scraped(client.get("/metrics"))
    ages = {
        key[1]: value for key, value in samples.items() if key[0] == "statsvc_dataset_version_age_seconds"
    }
    assert set(ages) == {"first", "second"}
    assert 0 < ages["second"] < ages["first"] <= time.time() - started + 1
    assert samples["statsvc_datasets",] == 3


def test_metrics_need_a_token_where_reads_need_one_and_both_text_formats_are_served(
    home: Home, catalog: Catalog
) -> None:
    _, secret = tokens.create(catalog, "read", "prometheus")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    with ApiClient(build_app(home, policy=Policy(reads=True))) as client:
        assert client.get("/metrics").status_code == 401
        response = client.get("/metrics", headers={"Authorization": f"Bearer {secret}", **accept})
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        assert response.text.endswith("# EOF\n")
    with ApiClient(build_app(home, policy=Policy(writes=True))) as client:
        assert client.get("/metrics").headers["content-type"].startswith("text/plain")


def test_each_job_that_ends_is_reported_once(catalog: Catalog) -> None:
    dataset = add_dataset(catalog)
    jobs.submit(catalog, dataset)
    old = jobs.lease(catalog, "me")
    assert old is not None
    jobs.fail(catalog, old, "ended before the first poll")
    ended = EndedJobs()
    assert ended.poll(catalog) == []
    reported = []
    for _ in range(3):
        jobs.submit(catalog, dataset)
        job = jobs.lease(catalog, "me")
        assert job is not None
        reported += [row.id for row in ended.poll(catalog)]  # while it runs
        with catalog.write() as connection:
            job_rows.finish(connection, job, None, {"counted": 3, "pixels": 12})
        reported += [row.id for row in ended.poll(catalog)]
        assert reported[-1] == job.id
    cancelled, _ = jobs.submit(catalog, dataset)
    jobs.cancel(catalog, cancelled.id)
    (row,) = ended.poll(catalog)
    assert (row.id, row.state, row.started_at) == (cancelled.id, "cancelled", None)
    assert ended.poll(catalog) == []
    assert len(set(reported)) == len(reported) == 3
