"""The alert rules and the dashboard in `deploy/`, against a scrape of a server that counts label maps."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import numpy as np
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from support.commands import serve
from support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "statsvc.json"

OF_PROMETHEUS = {"up", "job", "instance"}
"""A metric and labels that Prometheus itself adds."""

SELECTOR = re.compile(r"\b(up|statsvc_\w+|process_\w+)\s*(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")


def expressions() -> list[str]:
    """Return every PromQL expression of the rules and of the dashboard."""
    rules = yaml.safe_load(RULES.read_text())
    panels = json.loads(DASHBOARD.read_text())["panels"]
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return alerts + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scrape of a server whose runner has counted three label maps of 4 x 5 pixels; one is damaged."""
    folder = tmp_path_factory.mktemp("labels")
    for number in range(3):
        Image.fromarray(np.full((4, 5), number, np.uint8)).save(folder / f"{number}.png")
    (folder / "damaged.png").write_bytes(b"no image")
    home = tmp_path_factory.mktemp("home")
    with serve(home, "--root", folder, "--workers", "1") as (url, _):
        body = {"name": "tiny", "source": str(folder)}
        assert httpx2.post(f"{url}/datasets", json=body).status_code in (201, 202)
        wait_for(lambda: 'statsvc_samples_total{outcome="counted"} 3.0' in httpx2.get(f"{url}/metrics").text)
        yield httpx2.get(f"{url}/metrics").text


def test_a_scan_shows_in_the_counters_of_jobs_samples_and_pixels(scrape: str) -> None:
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
    }
    assert samples["statsvc_samples_total", "failed"] == 1
    assert samples["statsvc_samples_total", "reused"] == 0
    assert samples["statsvc_pixels_total",] == 3 * 4 * 5
    assert samples["statsvc_jobs_total", "succeeded"] == 1
    assert 0 < samples["statsvc_job_duration_seconds_sum", "succeeded"] < 300
    assert samples["statsvc_runners",] == 1
    assert samples["statsvc_runner_heartbeat_age_seconds",] < 60
    assert samples["statsvc_catalog_up",] == 1
    assert samples["statsvc_dataset_version_age_seconds", "tiny"] < 300
    assert samples["statsvc_dataset_failed_scans", "tiny"] == 0


def test_every_metric_and_label_of_the_alerts_and_the_dashboard_is_in_a_scrape(scrape: str) -> None:
    known: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            labels = known.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    assert len(expressions()) >= 20
    for expression in expressions():
        used = set()
        for name, conditions in SELECTOR.findall(expression):
            if name == "up":
                continue
            assert name in known, expression
            used |= set(known[name])
            for label, operator, value in re.findall(r'(\w+)\s*(=~|=)\s*"([^"]*)"', conditions):
                if label in OF_PROMETHEUS:
                    continue
                values = known[name].get(label, set())
                if operator == "=":
                    assert value in values, expression
                else:
                    assert any(re.fullmatch(value, each) for each in values), expression
        for names in GROUPING.findall(expression):
            assert {name.strip() for name in names.split(",")} <= used | OF_PROMETHEUS, expression


def test_promtool_accepts_the_rules_and_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    file = tmp_path / "dashboard.yml"
    concrete = [expression.replace("$__rate_interval", "5m") for expression in expressions()]
    rules = [{"record": f"statsvc:rule{n}", "expr": expression} for n, expression in enumerate(concrete)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", RULES, file)


SERIES = {
    "StatsvcDown": ('up{job="statsvc", instance="a"}', "0x20"),
    "StatsvcCatalogUnavailable": ('statsvc_catalog_up{job="statsvc", instance="a"}', "0x20"),
    "StatsvcVersionStoreUnavailable": ('statsvc_version_store_up{job="statsvc", instance="a"}', "0x20"),
    "StatsvcRunnerMissing": ('statsvc_runner_missing{job="statsvc", instance="a"}', "1x20"),
    "StatsvcScansFail": ('statsvc_dataset_failed_scans{job="statsvc", instance="a", dataset="d"}', "3x20"),
    "StatsvcJobsWait": ('statsvc_jobs_queued_oldest_seconds{job="statsvc", instance="a"}', "4000x20"),
    "StatsvcJobWithoutProgress": (
        'statsvc_jobs_without_progress_seconds{job="statsvc", instance="a"}',
        "2000x20",
    ),
    "StatsvcScheduleOverdue": ('statsvc_schedule_overdue_seconds{job="statsvc", instance="a"}', "1000x20"),
    "StatsvcUnreadableSamples": (
        'statsvc_samples_total{job="statsvc", instance="a", outcome="failed"}',
        "0x5 7x15",
    ),
    "StatsvcServerErrors": (
        'statsvc_http_requests_total{job="statsvc", instance="a", method="GET", '
        'route="/weights", status="500"}',
        "0+9x20",
    ),
    "StatsvcSlowWeights": (
        'statsvc_http_request_duration_seconds_bucket{job="statsvc", instance="a", method="GET", '
        'route="/weights", le="1.0"}',
        "0+9x20",
    ),
    "StatsvcFewFiles": ('process_open_fds{job="statsvc", instance="a"}', "900x20"),
}
"""One series for each alert, a value a minute, that makes it fire within 20 minutes, and no other alert."""

FURTHER_SERIES = {
    "StatsvcSlowWeights": [(SERIES["StatsvcSlowWeights"][0].replace('"1.0"', '"+Inf"'), "0+9x20")],
    "StatsvcFewFiles": [('process_max_fds{job="statsvc", instance="a"}', "1000x20")],
}


def test_each_alert_fires_for_its_own_condition_only(tmp_path: Path) -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    alerts = {rule["alert"]: rule for rule in rules}
    assert set(alerts) == set(SERIES)
    tests = []
    for name, series in SERIES.items():
        inputs = [series, *FURTHER_SERIES.get(name, [])]
        if name == "StatsvcSlowWeights":  # a lower bucket without requests, to interpolate from
            inputs.append((series[0].replace('"1.0"', '"0.5"'), "0x20"))
        expected = [
            f"count(ALERTS{{alertname='{other}', alertstate='firing'}}) or vector(0)" for other in alerts
        ]
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": text, "values": values} for text, values in inputs],
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": "18m",
                        "exp_samples": [{"labels": "{}", "value": int(other == name)}],
                    }
                    for other, expression in zip(alerts, expected, strict=True)
                ],
            }
        )
    file = tmp_path / "alerts_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


def promtool(*arguments: str | Path) -> None:
    """Run promtool; fail with its output if it finds an error."""
    process = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stdout + process.stderr
