"""Jobs on the roles that several hosts have: a Dask scheduler and workers, runners, servers, PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Security

from statsvc import __version__
from statsvc.dataset.configuration import Configuration
from statsvc.store import home as homes
from statsvc.store.catalog import jobs
from statsvc.store.catalog.catalog import Catalog
from statsvc_workers.cluster import remote_cluster
from statsvc_workers.cluster.remote_cluster import ClusterAway, RemoteCluster
from statsvc_workers.jobs.progress import Progress
from support.cluster import Cluster, running_cluster
from support.commands import statsvc
from support.label_maps import expected_counts, write_folder, write_huge_arrays
from support.scans import Workspace
from support.servers import free_port, serving
from support.waiting import wait_for, wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CAMVID = Path(__file__).resolve().parents[3] / "shared" / "data" / "camvid"
PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "published.json").read_text())
QUESTION = "/weights?method=median_freq&dataset="
MAPS = 12
SLOW = 20
PARTS = ("cert", "key")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(folder, [folder], runners=2) as started:
        yield started


@pytest.fixture
def labels(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """Return a folder of label maps below the root that the API servers allow."""
    return write_folder(cluster.folder / f"labels-{request.node.name[:40]}", files=MAPS)


def call(url: str, body: Any = None, **headers: str) -> tuple[bytes, dict[str, str]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read(), {name.lower(): value for name, value in answer.headers.items()}


def ask(url: str, body: Any = None) -> Any:
    return json.loads(call(url, body)[0])


def register(cluster: Cluster, name: str, source: str | Path) -> dict[str, Any]:
    """Register a folder or URL; return the job that counts it."""
    return ask(f"{cluster.url}/datasets", {"name": name, "source": str(source), "pattern": "*.png"})["job"]


def ended(cluster: Cluster, job: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
    def look() -> Any:
        found = ask(f"{cluster.url}/jobs/{job['id']}")
        return found if found["state"] in ("succeeded", "failed", "cancelled") else None

    return wait_for(look, seconds)


def until(cluster: Cluster, job: dict[str, Any], counted: int = 1) -> None:
    """Wait until some samples of a job are counted."""
    wait_for(lambda: ask(f"{cluster.url}/jobs/{job['id']}")["progress"].get("counted", 0) >= counted, 60)


def tried(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a request gives, None where a server does not know yet."""
    try:
        return function(*arguments)
    except urllib.error.HTTPError:
        return None


def histogram(api: str, name: str, version: int = 1) -> dict[int, tuple[int, int]]:
    """Return {raw id: (pixels, images)} of a dataset's version, published a second ago or less."""
    url = f"{api}/datasets/{name}/histogram?version={version}"
    classes = wait_for(lambda: tried(ask, url), 1)["classes"]
    return {row["id"]: (row["pixels"], row["images"]) for row in classes if row["pixels"]}


def counted_in(folder: Path) -> dict[int, tuple[int, int]]:
    """Return what `histogram` should, by `numpy.unique` over the files."""
    found = expected_counts(folder)
    table = found.table()
    return {
        raw: (int(table[:, column].sum()), int((table[:, column] > 0).sum()))
        for column, raw in enumerate(found.ids)
    }


def slow_folder(folder: Path, files: int = SLOW) -> Path:
    """Make label maps that take about 0.1 s each: zeros, 64 MiB, no room on the disk."""
    folder.mkdir()
    long = write_huge_arrays(folder)
    for file in sorted(long.iterdir())[files:]:
        file.unlink()
    return folder


def weigh(api: str, name: str, **headers: str) -> tuple[bytes, str]:
    body, answered = call(f"{api}{QUESTION}{name}", **headers)
    return body, answered["etag"]


def both(cluster: Cluster, name: str, version: int) -> tuple[bytes, str]:
    """Return body and ETag of what both servers answer from a version, the same within a second."""

    def look() -> Any:
        one, other = (tried(weigh, api, name) for api in cluster.apis)
        return one if one and one == other and json.loads(one[0])["version"] == version else None

    return wait_for(look, 1)


def without_name(body: bytes) -> dict[str, Any]:
    return {key: value for key, value in json.loads(body).items() if key != "dataset"}


def test_the_first_use_gives_the_numbers_of_one_machine_from_a_folder_and_from_a_bucket(
    cluster: Cluster, tmp_path: Path
) -> None:
    real = CAMVID.exists()  # else label maps that are made, of which nothing was published
    folder = cluster.folder / "first-use"
    if real:
        shutil.copytree(CAMVID / "train", folder)
    else:
        write_folder(folder, files=MAPS)
    files = len(expected_counts(folder).counts)
    sources = {"from-folder": str(folder), "from-bucket": cluster.upload(folder, folder.name)}
    waiting = {name: register(cluster, name, source) for name, source in sources.items()}
    # The same label maps on one machine, on SQLite, in a folder, without Dask elsewhere.
    home = homes.resolve(str(tmp_path / "home"))
    statsvc("scan", folder, "--name", "alone", "--pattern", "*.png", "--home", home.folder)
    with serving(home) as url:
        alone = weigh(url, "alone")[0]
    told = {}
    for name, asked in waiting.items():
        job = ended(cluster, asked)
        assert (job["state"], job["version"], job["error"]) == ("succeeded", 1, None)
        assert (job["progress"]["counted"], job["progress"]["failed"]) == (files, 0)
        told[name] = both(cluster, name, 1)
        assert histogram(cluster.url, name) == counted_in(folder)
        assert without_name(told[name][0]) == without_name(alone)
        if real:
            published = PUBLISHED["camvid_train"]
            assert [pixels for pixels, _ in histogram(cluster.url, name).values()] == published["counts"]
            weights = ask(f"{cluster.url}{QUESTION}{name}&normalize=none&num_classes=12")["weights"]
            assert [round(weight, 9) for weight in weights] == published["median_freq"]
    # A second scan counts nothing and changes nothing.
    waiting = {name: ask(f"{cluster.url}/jobs", {"dataset": name}) for name in sources}
    for name, asked in waiting.items():
        again = ended(cluster, asked)
        assert (again["state"], again["version"], again["progress"]["counted"]) == ("succeeded", None, 0)
        assert both(cluster, name, 1) == told[name] == weigh(cluster.url, name)
    # One file replaced, and one that ends early: one is counted, one named, the others are left alone.
    first, second = sorted(folder.rglob("*.png"))[:2]
    shutil.copyfile(second, first)
    (first.parent / "bad.png").write_bytes(first.read_bytes()[:-100])
    cluster.upload(folder, folder.name)
    waiting = {name: ask(f"{cluster.url}/jobs", {"dataset": name}) for name in sources}
    for name, asked in waiting.items():
        job = ended(cluster, asked)
        assert (job["state"], job["version"]) == ("succeeded", 2)
        assert [job["progress"][part] for part in ("counted", "reused", "failed")] == [1, files - 1, 1]
        assert both(cluster, name, 2)[1] != told[name][1]
        assert histogram(cluster.url, name, 2) == counted_in(folder)
        [failure] = ask(f"{cluster.url}/datasets/{name}")["failures"]
        assert failure["path"].endswith("bad.png")
        pinned = ask(f"{cluster.url}{QUESTION}{name}&version=1")
        assert pinned["weights"] == json.loads(told[name][0])["weights"]


def test_a_dask_worker_killed_during_a_job_costs_time_only(cluster: Cluster) -> None:
    folder = slow_folder(cluster.folder / "killed-worker")
    job = ask(f"{cluster.url}/datasets", {"name": "kw", "source": str(folder)})["job"]
    until(cluster, job)
    cluster.roles["worker1"].kill()
    cluster.roles["worker1"].start()
    job = ended(cluster, job)
    assert (job["state"], job["attempt"], job["error"]) == ("succeeded", 1, None)
    assert histogram(cluster.url, "kw") == {0: (SLOW << 26, SLOW)}


def test_a_scheduler_killed_and_started_again_during_a_job_is_found_again(cluster: Cluster) -> None:
    folder = slow_folder(cluster.folder / "killed-scheduler")
    job = ask(f"{cluster.url}/datasets", {"name": "ks", "source": str(folder)})["job"]
    until(cluster, job)
    cluster.roles["scheduler"].kill()
    cluster.roles["scheduler"].start()
    # Workers of a scheduler that is gone end; on other hosts their nannies or containers start them again.
    for name in ("worker1", "worker2"):
        cluster.roles[name].stop()
        cluster.roles[name].start()
    job = ended(cluster, job)
    assert (job["state"], job["attempt"], job["error"]) == ("succeeded", 1, None)
    assert histogram(cluster.url, "ks") == {0: (SLOW << 26, SLOW)}


def test_a_hundred_jobs_of_two_runners_are_each_run_once_and_number_without_gaps(
    cluster: Cluster, labels: Path
) -> None:
    wait_until_stable(labels)
    names = [f"d{number}" for number in range(10)]
    waiting = [register(cluster, name, labels) for name in names]
    for turn in range(9):
        for job in waiting:
            ended(cluster, job)
        api = cluster.apis[turn % 2]
        waiting = [ask(f"{api}/jobs", {"dataset": name, "full": True}) for name in names]
    for job in waiting:
        ended(cluster, job)
    published = time.monotonic()
    for name in names:
        found = ask(f"{cluster.url}/jobs?dataset={name}")["jobs"]
        assert sorted(job["version"] for job in found) == list(range(1, 11))
        assert [(job["state"], job["attempt"]) for job in found] == [("succeeded", 1)] * 10
        wait_for(
            lambda name=name: (
                weigh(cluster.apis[0], name) == weigh(cluster.apis[1], name)
                and ask(f"{cluster.apis[0]}/datasets/{name}")["version"] == 10
            ),
            published + 1.5 - time.monotonic(),
        )
    leased = [cluster.output(f"runner{number}").count("attempt 1") for number in (1, 2)]
    assert min(leased) > 10  # both took part


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """Return a catalog of this process's own, counted for by whatever scheduler a test names."""
    for name in ("WAIT_SECONDS", "CONNECT_SECONDS"):
        monkeypatch.setattr(remote_cluster, name, 1.0)
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}")
    made = Workspace(tmp_path / "home", catalog, RemoteCluster(cluster.dask))
    made.add(write_folder(tmp_path / "labels", files=4))
    yield made
    made.cluster.close()
    catalog.close()


def joined(workspace: Workspace, workers: int) -> None:
    """Wait until so many workers have joined the scheduler of a place's own."""

    def look() -> bool:
        with contextlib.suppress(ClusterAway):
            return len(workspace.cluster.client().nthreads()) == workers
        return False

    wait_for(look, 60)


def test_without_a_scheduler_a_job_waits_and_says_so(workspace: Workspace) -> None:
    workspace.cluster = RemoteCluster(f"tcp://127.0.0.1:{free_port()}")
    outcome, job = workspace.scan()
    assert job.state == "queued"  # to be tried again after a pause, five times in all
    assert "no Dask scheduler answers at tcp://127.0.0.1" in str(job.error)
    assert outcome.error == job.error


def test_without_a_worker_that_takes_work_a_job_waits_and_says_how_to_start_one(
    cluster: Cluster, workspace: Workspace
) -> None:
    address = cluster.add_scheduler("idle-scheduler")
    workspace.cluster = RemoteCluster(address)
    joined(workspace, 0)
    _, job = workspace.scan()
    assert job.state == "queued"
    assert f"no worker that accepts work. Start workers with dask worker {address}" in str(job.error)
    cluster.add_worker("full-worker", address, memory="64MB")  # less than Python takes, so it pauses
    joined(workspace, 1)
    wait_for(lambda: workspace.cluster.connected() == 0)
    assert workspace.scan()[0].error == job.error
    assert "paused for lack of it" in str(job.error)


def test_a_worker_with_another_statsvc_fails_the_job_and_is_named(
    cluster: Cluster, workspace: Workspace, tmp_path: Path
) -> None:
    metadata = tmp_path / "other" / "statsvc-9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: statsvc\nVersion: 9.9\n")
    address = cluster.add_scheduler("other-scheduler")
    cluster.add_worker("other-worker", address, PYTHONPATH=str(tmp_path / "other"))
    workspace.cluster = RemoteCluster(address)
    joined(workspace, 1)
    _, job = workspace.scan()
    assert job.state == "failed"
    assert f"on {socket.gethostname()} has statsvc 9.9 (the runner has {__version__})" in str(job.error)
    assert f"pip install 'statsvc[workers]=={__version__}'" in str(job.error)


def test_cuda_is_looked_for_before_anything_is_counted(workspace: Workspace) -> None:
    workspace.device = "cuda"
    _, job = workspace.scan()
    assert job.state == "failed"
    assert f"on {socket.gethostname()} has no CUDA device that Torch can use" in str(job.error)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a worker with less rights")
@pytest.mark.parametrize("joins", ["before", "meanwhile"])
def test_a_worker_that_cannot_read_the_source_fails_the_job_and_is_named(
    cluster: Cluster, workspace: Workspace, tmp_path: Path, joins: str
) -> None:
    labels = slow_folder(tmp_path / "closed")
    labels.chmod(0)  # no hindrance for root, but for a worker without that right
    workspace.catalog.create_dataset("closed", str(labels), "*.npy", Configuration())
    address = cluster.add_scheduler(f"scheduler-{joins}")
    workspace.cluster = RemoteCluster(address)
    strange = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")
    cluster.add_worker(f"good-{joins}", address)
    progress = Progress()

    def stop() -> bool:
        if progress.counted and f"strange-{joins}" not in cluster.roles:
            cluster.add_worker(f"strange-{joins}", address, prefix=strange)
        return False

    if joins == "before":
        cluster.add_worker(f"strange-{joins}", address, prefix=strange)
    joined(workspace, 2 if joins == "before" else 1)
    _, job = workspace.scan("closed", stop, progress)
    assert job.state == "failed"
    assert f"on {socket.gethostname()} cannot read {labels}" in str(job.error)
    assert "Permission denied" in str(job.error)
    assert (progress.counted > 0) == (joins == "meanwhile")


def test_a_scheduler_is_reached_over_tls_with_certificates_from_dasks_configuration(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Security.temporary()
    certificates = {"CA_FILE": made.tls_ca_file}
    for role in ("scheduler", "worker", "client"):
        certificates |= {
            f"{role.upper()}__{part.upper()}": getattr(made, f"tls_{role}_{part}") for part in PARTS
        }
    tls = {}
    for name, text in certificates.items():
        (tmp_path / name).write_text(text)
        tls[f"DASK_DISTRIBUTED__COMM__TLS__{name}"] = str(tmp_path / name)
    address = cluster.add_scheduler("tls-scheduler", "tls", **tls)
    cluster.add_worker("tls-worker", address, **tls)
    labels = write_folder(tmp_path / "labels", files=4)
    home = ("--home", str(tmp_path / "home"), "--database", f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    catalog = Catalog.open(home[3])
    job, _ = jobs.submit(catalog, catalog.create_dataset("tls", str(labels), "*.png", Configuration()))
    cluster.add_runner("tls-runner", *home, dask=address, **tls)
    wait_for(lambda: jobs.get(catalog, job.id).ended, 60)
    found = jobs.get(catalog, job.id)
    catalog.close()
    assert (found.state, found.error) == ("succeeded", None)


def test_the_password_of_the_catalog_is_on_no_command_line(cluster: Cluster, tmp_path: Path) -> None:
    secret = "hunter2-of-nobody"
    database = cluster.home.database.replace("postgres@", f"postgres:{secret}@")
    serve = ("-m", "statsvc", "serve", "--port", "0", "--root", tmp_path, "--workers", 1)
    role = cluster.add("serve", sys.executable, *serve, STATSVC_DATABASE=database)

    def runner() -> str | None:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                text = file.read_text()
                if f"--parent\0{role.pid}\0" in text:
                    return text
        return None

    assert secret not in wait_for(runner)
    role.stop()
