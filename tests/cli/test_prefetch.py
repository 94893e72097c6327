"""`statsvc prefetch`, and the client with STATSVC_OFFLINE=1 that uses its cache."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import statsvc
from statsvc.client.client import Client
from statsvc.errors import InvalidParameter, NotFound, ServerError
from statsvc.store import home as homes
from support.commands import statsvc as command
from support.outages import Front, front_of, sends
from support.permissions import without_root_privileges
from support.publishing import label_maps, publish
from support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("prefetch") / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    publish(home, "street", label_maps(seed=1), num_classes=4)
    publish(home, "field", label_maps(seed=2), num_classes=4)
    with serving(home) as url:
        yield url


@pytest.fixture
def front(upstream: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    with front_of(upstream) as running:
        monkeypatch.setenv("STATSVC_URL", running.url)
        yield running


def test_prefetched_weights_are_available_offline(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("prefetch", "street", "--method", "power", "--alpha", "0.5", "--clip", "0.1,10")
    assert front.requests == [
        "/weights?alpha=0.5&clip=0.1,10&dataset=street&method=power",
        "/weights?alpha=0.5&clip=0.1,10&dataset=street&method=power&version=2",
    ]
    printed = done.stdout.splitlines()
    assert [line.partition(" in ")[0] for line in printed] == ["street version 2: 4 weights by power"] * 2
    files = [Path(line.partition(" in ")[2]) for line in printed]
    assert sorted(files) == sorted(Path(os.environ["STATSVC_CACHE"]).iterdir())
    params: dict[str, Any] = {"method": "power", "alpha": 0.5, "clip": (0.1, 10.0)}
    expected = Client().weights("street", **params).to_list()

    front.requests.clear()
    monkeypatch.setenv("STATSVC_OFFLINE", "1")
    assert Client().weights("street", **params).to_list() == expected
    assert Client().weights("street", version=2, **params).to_list() == expected
    tensor = statsvc.class_weights(dataset="street", **params)
    assert tensor.tolist() == pytest.approx(expected, rel=1e-6)
    assert front.requests == []


def test_several_datasets_and_versions_can_be_prefetched(front: Front) -> None:
    done = command(
        "prefetch", "street", "field", "--version", "1", "--ignore", "255", "--ignore", "3", "--json"
    )
    kept = json.loads(done.stdout)
    assert [(row["dataset"], row["version"]) for row in kept] == [("street", 1), ("field", 1)]
    assert kept[0]["spec"]["ignore_index"] == [3, 255]
    assert all(Path(row["file"]).is_file() for row in kept)
    done = command("prefetch", "street", "--version", "1", "--version", "2", "--json")
    assert [row["version"] for row in json.loads(done.stdout)] == [1, 2]
    assert json.loads(done.stdout)[0]["digest"] == Client().weights("street", version=1).digest


def test_an_offline_cache_miss_names_the_command_that_fetches_the_entry(
    front: Front, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    params: dict[str, Any] = {"multiply": {"1": 2.0}, "ignore_index": [-1], "method": "enet", "c": 1.1}
    with monkeypatch.context() as offline:
        offline.setenv("STATSVC_OFFLINE", "1")
        client = Client(cache=tmp_path / "my cache")
        with pytest.raises(ServerError, match="STATSVC_OFFLINE is set") as caught:
            client.weights("street", **params)
        with pytest.raises(ServerError, match=r"OFFLINE is set, and .* has no response of .*/methods$"):
            client.methods()
    assert front.requests == []
    message = str(caught.value)
    assert f"{front.url}/weights?c=1.1&dataset=street&ignore_index=-1&method=enet&multiply=1:2" in message
    words = shlex.split(message.partition("run: ")[2])
    assert words[:2] == ["statsvc", "prefetch"]
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    assert client.weights("street", **params).version == 2


def test_an_offline_cache_hit_is_logged(
    front: Front, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    command("prefetch", "street")
    monkeypatch.setenv("STATSVC_OFFLINE", "1")
    caplog.set_level("INFO", "statsvc.client")
    Client().weights("street")
    assert "from the cache: street version 2 (sqrt_inv_freq), confirmed by the server" in caplog.text


@pytest.mark.parametrize(("value", "offline"), [("", False), ("0", False), ("off", False), ("TRUE", True)])
def test_statsvc_offline_accepts_boolean_words(
    monkeypatch: pytest.MonkeyPatch, value: str, offline: bool
) -> None:
    monkeypatch.setenv("STATSVC_OFFLINE", value)
    assert Client("http://a").offline is offline


def test_an_invalid_statsvc_offline_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATSVC_OFFLINE", "perhaps")
    with pytest.raises(InvalidParameter, match="STATSVC_OFFLINE is 'perhaps': set it to 1 or 0"):
        Client("http://a")


@pytest.mark.parametrize("dataset", [None, "street"])
def test_a_sampler_works_offline_with_prefetched_data(
    front: Front, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: str | None
) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(), num_classes=4)
    with serving(home) as url:
        monkeypatch.setenv("STATSVC_URL", url)
        names = [] if dataset is None else [dataset]
        done = command("prefetch", *names, "--sampling", "rare_class", "--min-pixels", "5", "--json")
        question: dict[str, Any] = {"dataset": dataset, "sampler": "rare_class", "min_pixels": 5}
        expected = Client().sampling(**question)
        listed = Client().datasets()
    (kept,) = json.loads(done.stdout)
    assert (kept["version"], kept["images"], len(kept["files"])) == (1, len(expected), 2 + (dataset is None))
    assert (
        "--sampling already names the sampler"
        in command("prefetch", "--sampling=rare_class", "--sampler=x", code=2).stderr
    )
    monkeypatch.setenv("STATSVC_OFFLINE", "1")
    for version in (None, 1):
        sampling = Client().sampling(**question, version=version)
        assert sampling.probability.tolist() == expected.probability.tolist()
    assert Client().datasets() == listed
    with pytest.raises(
        ServerError, match=r"run: statsvc prefetch street .*--sampling=rare_class --split=val$"
    ):
        Client().sampling("street", sampler="rare_class", split="val")


# Errors


def test_prefetch_always_queries_the_server(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    Client().prefetch("street", version=1)
    Client().prefetch("street", version=1)
    assert len(front.requests) == 2
    front.down()
    monkeypatch.setenv("STATSVC_TIMEOUT", "0.3")
    assert "cannot connect" in command("prefetch", "street", "--version", "1", code=1).stderr


def test_prefetch_fails_if_the_cache_cannot_store_the_answer(front: Front, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = command("prefetch", "street", "--cache", tmp_path / "file", code=1)
    assert f"The cache {tmp_path / 'file'} cannot be written" in done.stderr
    good = Client().weights("street").to_dict()
    front.behavior = sends(200, json.dumps(good).encode(), content_type="application/json")
    with pytest.raises(ServerError, match="forbids caching"):
        Client().prefetch("street")


def test_usage_errors_of_prefetch_name_the_parameter(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no dataset 'stret'" in command("prefetch", "stret", code=2).stderr
    assert "--method" in command("prefetch", "street", "--method", "enot", code=2).stderr
    monkeypatch.setenv("STATSVC_OFFLINE", "1")
    assert "unset it to fetch" in command("prefetch", "street", code=2).stderr
    monkeypatch.delenv("STATSVC_OFFLINE")
    monkeypatch.delenv("STATSVC_URL")
    assert "STATSVC_URL" in command("prefetch", "street", code=2).stderr


def test_an_unknown_dataset_is_rejected_by_the_server(front: Front) -> None:
    with pytest.raises(NotFound, match="stret"):
        Client().weights("stret")


def test_a_read_only_cache_answers_without_a_warning(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "image"
    client = Client(cache=folder)
    client.prefetch("street")
    folder.chmod(0o500)
    try:
        with without_root_privileges():
            assert client.weights("street").version == 2
            front.down()
            assert Client(cache=folder, timeout=0.3).weights("street", version=2).version == 2
    finally:
        folder.chmod(0o700)
    assert caplog.records == []


def test_prefetch_works_without_extras(front: Front) -> None:
    """A compute node may have only `pip install statsvc`, without store, workers or service."""
    absent = ["zarr", "sqlalchemy", "alembic", "xxhash", "dask", "fastapi", "PIL", "torch"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from statsvc.cli import main
sys.argv = ["statsvc", "prefetch", "street"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "street version 2" in done.stdout
