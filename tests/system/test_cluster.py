"""Jobs on a distributed installation: Dask scheduler and workers, runners, API servers, PostgreSQL, S3."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pytest

from statsvc import __version__
from statsvc.dataset.configuration import Configuration
from statsvc.store import home as homes
from statsvc.store.catalog.catalog import Catalog
from statsvc_workers.cluster import remote_cluster
from statsvc_workers.cluster.away import ClusterAway
from statsvc_workers.cluster.remote_cluster import RemoteCluster
from statsvc_workers.jobs.progress import Progress
from support.cluster import Cluster, running_cluster, tls_settings
from support.commands import statsvc
from support.expected import CAMVID, PUBLISHED
from support.label_maps import HUGE_PIXELS, expected_counts, write_folder, write_huge_arrays
from support.scans import Workspace
from support.servers import free_port, serving
from support.waiting import wait_for, wait_until_stable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WEIGHTS_PATH = "/weights?method=median_freq&dataset="
MAPS = 12
HUGE_FILES = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(folder, [folder], runners=2) as cluster:
        yield cluster


@pytest.fixture
def labels(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """Return a folder of label maps below the root that the API servers allow."""
    return write_folder(cluster.folder / f"labels-{request.node.name[:40]}", files=MAPS)


def request(url: str, body: Any = None, **headers: str) -> tuple[bytes, dict[str, str]]:
    """Send a GET request, or POST if there is a body; return the body and the headers of the response."""
    data = None if body is None else json.dumps(body).encode()
    message = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(message, timeout=60) as response:
        return response.read(), {name.lower(): value for name, value in response.headers.items()}


def request_json(url: str, body: Any = None) -> Any:
    return json.loads(request(url, body)[0])


def register(cluster: Cluster, name: str, source: str | Path) -> dict[str, Any]:
    """Register a folder or URL; return the job that counts it."""
    body = {"name": name, "source": str(source), "pattern": "*.png"}
    job: dict[str, Any] = request_json(f"{cluster.url}/datasets", body)["job"]
    return job


def wait_for_end(cluster: Cluster, job: dict[str, Any]) -> dict[str, Any]:
    """Wait until a job has ended, and return it."""

    def poll() -> Any:
        current = request_json(f"{cluster.url}/jobs/{job['id']}")
        return current if current["state"] in ("succeeded", "failed", "cancelled") else None

    ended: dict[str, Any] = wait_for(poll)
    return ended


def wait_for_first_sample(cluster: Cluster, job: dict[str, Any]) -> None:
    """Wait until a sample of a job is counted."""
    wait_for(lambda: request_json(f"{cluster.url}/jobs/{job['id']}")["progress"].get("counted", 0) >= 1)


def none_if_unknown(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a request, or None if the server does not know the dataset or version yet."""
    try:
        return function(*arguments)
    except urllib.error.HTTPError:
        return None


def histogram(api: str, name: str, version: int = 1) -> dict[int, tuple[int, int]]:
    """Wait until a server knows a version, and return its {raw id: (pixels, images)}."""
    url = f"{api}/datasets/{name}/histogram?version={version}"
    classes = wait_for(lambda: none_if_unknown(request_json, url))["classes"]
    return {row["id"]: (row["pixels"], row["images"]) for row in classes if row["pixels"]}


def expected_histogram(folder: Path) -> dict[int, tuple[int, int]]:
    """Return {raw id: (pixels, images)} of a folder according to NumPy."""
    expected = expected_counts(folder)
    table = expected.table()
    return {
        raw: (int(table[:, column].sum()), int((table[:, column] > 0).sum()))
        for column, raw in enumerate(expected.ids)
    }


def get_weights(api: str, name: str) -> tuple[bytes, str]:
    """Return the body and the ETag of the weights of a dataset."""
    body, headers = request(f"{api}{WEIGHTS_PATH}{name}")
    return body, headers["etag"]


def weights_of_both_servers(cluster: Cluster, name: str, version: int) -> tuple[bytes, str]:
    """Wait until both servers send the same weights of a version; return their body and ETag."""

    def poll() -> Any:
        first, second = (none_if_unknown(get_weights, api, name) for api in cluster.apis)
        same = first is not None and first == second
        return first if same and json.loads(first[0])["version"] == version else None

    weights: tuple[bytes, str] = wait_for(poll)
    return weights


def without_name(body: bytes) -> dict[str, Any]:
    return {key: value for key, value in json.loads(body).items() if key != "dataset"}


def test_counts_from_a_folder_and_from_a_bucket_equal_those_of_a_single_machine(
    cluster: Cluster, tmp_path: Path
) -> None:
    published = PUBLISHED["camvid_train"] if CAMVID.exists() else None  # None: use random label maps
    folder = cluster.folder / "single-machine"
    if published:
        shutil.copytree(CAMVID / "train", folder)
    else:
        write_folder(folder, files=MAPS)
    files = len(expected_counts(folder).counts)
    sources = {"from-folder": str(folder), "from-bucket": cluster.upload(folder, folder.name)}
    submitted = {name: register(cluster, name, source) for name, source in sources.items()}
    # The same label maps on a single machine: SQLite, a version store in a folder, a local Dask cluster.
    home = homes.resolve(str(tmp_path / "home"))
    statsvc("scan", folder, "--name", "alone", "--pattern", "*.png", "--home", home.folder)
    with serving(home) as url:
        single = get_weights(url, "alone")[0]
    first = {}
    for name, submitted_job in submitted.items():
        job = wait_for_end(cluster, submitted_job)
        assert (job["state"], job["version"], job["error"]) == ("succeeded", 1, None)
        assert (job["progress"]["counted"], job["progress"]["failed"]) == (files, 0)
        first[name] = weights_of_both_servers(cluster, name, 1)
        assert histogram(cluster.url, name) == expected_histogram(folder)
        assert without_name(first[name][0]) == without_name(single)
        if published:
            assert [pixels for pixels, _ in histogram(cluster.url, name).values()] == published["counts"]
            weights = request_json(f"{cluster.url}{WEIGHTS_PATH}{name}&normalize=none&num_classes=12")[
                "weights"
            ]
            assert [round(weight, 9) for weight in weights] == published["median_freq"]
    # A second scan counts nothing and changes nothing.
    submitted = {name: request_json(f"{cluster.url}/jobs", {"dataset": name}) for name in sources}
    for name, submitted_job in submitted.items():
        job = wait_for_end(cluster, submitted_job)
        assert (job["state"], job["version"], job["progress"]["counted"]) == ("succeeded", None, 0)
        assert weights_of_both_servers(cluster, name, 1) == first[name] == get_weights(cluster.url, name)
    # A replaced file is counted, a truncated file is listed as a failure, and the other rows are reused.
    replaced, other = sorted(folder.rglob("*.png"))[:2]
    shutil.copyfile(other, replaced)
    (replaced.parent / "bad.png").write_bytes(replaced.read_bytes()[:-100])
    cluster.upload(folder, folder.name)
    submitted = {name: request_json(f"{cluster.url}/jobs", {"dataset": name}) for name in sources}
    for name, submitted_job in submitted.items():
        job = wait_for_end(cluster, submitted_job)
        assert (job["state"], job["version"]) == ("succeeded", 2)
        assert [job["progress"][key] for key in ("counted", "reused", "failed")] == [1, files - 1, 1]
        assert weights_of_both_servers(cluster, name, 2)[1] != first[name][1]
        assert histogram(cluster.url, name, 2) == expected_histogram(folder)
        [failure] = request_json(f"{cluster.url}/datasets/{name}")["failures"]
        assert failure["path"].endswith("bad.png")
        pinned = request_json(f"{cluster.url}{WEIGHTS_PATH}{name}&version=1")
        assert pinned["weights"] == json.loads(first[name][0])["weights"]


def test_a_job_survives_the_kill_of_a_dask_worker(cluster: Cluster) -> None:
    folder = write_huge_arrays(cluster.folder / "killed-worker", HUGE_FILES)
    job = request_json(f"{cluster.url}/datasets", {"name": "kw", "source": str(folder)})["job"]
    wait_for_first_sample(cluster, job)
    cluster.roles["worker1"].kill()
    cluster.roles["worker1"].start()
    job = wait_for_end(cluster, job)
    assert (job["state"], job["attempt"], job["error"]) == ("succeeded", 1, None)
    assert histogram(cluster.url, "kw") == {0: (HUGE_FILES * HUGE_PIXELS, HUGE_FILES)}


def test_a_job_survives_a_restart_of_the_scheduler(cluster: Cluster) -> None:
    folder = write_huge_arrays(cluster.folder / "killed-scheduler", HUGE_FILES)
    job = request_json(f"{cluster.url}/datasets", {"name": "ks", "source": str(folder)})["job"]
    wait_for_first_sample(cluster, job)
    cluster.roles["scheduler"].kill()
    cluster.roles["scheduler"].start()
    # Workers exit without their scheduler. In production their nannies or containers restart them.
    for name in ("worker1", "worker2"):
        cluster.roles[name].stop()
        cluster.roles[name].start()
    job = wait_for_end(cluster, job)
    assert (job["state"], job["attempt"], job["error"]) == ("succeeded", 1, None)
    assert histogram(cluster.url, "ks") == {0: (HUGE_FILES * HUGE_PIXELS, HUGE_FILES)}


@pytest.mark.timeout(900)  # a hundred jobs, on a machine that may run other tests too
def test_two_runners_run_each_of_a_hundred_jobs_once_and_leave_no_gap_in_the_numbers(
    cluster: Cluster, labels: Path
) -> None:
    wait_until_stable(labels)
    names = [f"d{number}" for number in range(10)]
    submitted = [register(cluster, name, labels) for name in names]
    for turn in range(9):
        for job in submitted:
            wait_for_end(cluster, job)
        api = cluster.apis[turn % 2]
        submitted = [request_json(f"{api}/jobs", {"dataset": name, "full": True}) for name in names]
    for job in submitted:
        wait_for_end(cluster, job)
    for name in names:
        ended = request_json(f"{cluster.url}/jobs?dataset={name}")["jobs"]
        assert sorted(job["version"] for job in ended) == list(range(1, 11))
        assert [(job["state"], job["attempt"]) for job in ended] == [("succeeded", 1)] * 10
        weights_of_both_servers(cluster, name, 10)
    leased = [cluster.output(f"runner{number}").count("attempt 1") for number in (1, 2)]
    assert min(leased) > 10  # both runners ran jobs


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time in which an attempt waits for the scheduler and a worker."""
    monkeypatch.setattr(remote_cluster, "WAIT_SECONDS", 3.0)


@pytest.fixture
def workspace(cluster: Cluster, tmp_path: Path) -> Iterator[Workspace]:
    """A workspace in this process that counts on a Dask scheduler; tests may replace the scheduler."""
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}")
    workspace = Workspace(tmp_path / "home", catalog, RemoteCluster(cluster.dask))
    workspace.add(write_folder(tmp_path / "labels", files=4))
    yield workspace
    workspace.cluster.close()
    catalog.close()


def wait_for_workers(workspace: Workspace, workers: int) -> None:
    """Wait until the scheduler has this number of workers."""

    def poll() -> bool:
        with contextlib.suppress(ClusterAway):
            return len(workspace.cluster.client().nthreads()) == workers
        return False

    wait_for(poll)


@pytest.mark.usefixtures("short_wait")
def test_a_job_is_requeued_if_no_scheduler_responds(workspace: Workspace) -> None:
    workspace.cluster = RemoteCluster(f"tls://127.0.0.1:{free_port()}")
    outcome, job = workspace.scan()
    assert job.state == "queued"  # for the next of five attempts
    assert "no Dask scheduler answers at tls://127.0.0.1" in str(job.error)
    assert outcome.error == job.error


@pytest.mark.usefixtures("short_wait")
def test_a_job_is_requeued_if_no_worker_accepts_work(cluster: Cluster, workspace: Workspace) -> None:
    address = cluster.add_scheduler("idle-scheduler")
    workspace.cluster = remote = RemoteCluster(address)
    wait_for_workers(workspace, 0)
    _, job = workspace.scan()
    assert job.state == "queued"
    assert f"no worker that accepts work. Start workers with dask worker {address}" in str(job.error)
    cluster.add_worker("full-worker", address, memory="64MB")  # less than Python uses, so the worker pauses
    wait_for_workers(workspace, 1)
    wait_for(lambda: remote.connected() == 0)
    assert workspace.scan()[0].error == job.error
    assert "paused for lack of it" in str(job.error)


def test_a_job_fails_and_names_a_worker_with_another_version_of_statsvc(
    cluster: Cluster, workspace: Workspace, tmp_path: Path
) -> None:
    metadata = tmp_path / "other" / "statsvc-9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: statsvc\nVersion: 9.9\n")
    address = cluster.add_scheduler("other-scheduler")
    cluster.add_worker("other-worker", address, PYTHONPATH=str(tmp_path / "other"))
    workspace.cluster = RemoteCluster(address)
    wait_for_workers(workspace, 1)
    _, job = workspace.scan()
    assert job.state == "failed"
    assert f"on {socket.gethostname()} has statsvc 9.9 (the runner has {__version__})" in str(job.error)
    assert f"pip install 'statsvc[workers]=={__version__}'" in str(job.error)


def test_a_job_fails_before_it_counts_if_a_worker_lacks_cuda(workspace: Workspace) -> None:
    workspace.device = "cuda"
    _, job = workspace.scan()
    assert job.state == "failed"
    assert f"on {socket.gethostname()} has no CUDA device that Torch can use" in str(job.error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a worker with fewer privileges")
@pytest.mark.parametrize("joins", ["before the job", "during the job"])
def test_a_job_fails_and_names_a_worker_that_cannot_read_the_source(
    cluster: Cluster, workspace: Workspace, tmp_path: Path, joins: str
) -> None:
    labels = write_huge_arrays(tmp_path / "closed", HUGE_FILES)
    labels.chmod(0)  # root can still read it, the unprivileged worker cannot
    workspace.catalog.create_dataset("closed", str(labels), "*.npy", Configuration())
    address = cluster.add_scheduler(f"scheduler-{joins.split(maxsplit=1)[0]}")
    workspace.cluster = RemoteCluster(address)
    unprivileged = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")
    cluster.add_worker(f"good-{joins.split(maxsplit=1)[0]}", address)
    progress = Progress()

    def stop() -> bool:
        if progress.counted and f"strange-{joins.split(maxsplit=1)[0]}" not in cluster.roles:
            cluster.add_worker(f"strange-{joins.split(maxsplit=1)[0]}", address, prefix=unprivileged)
            wait_for_workers(workspace, 2)  # however fast the other one counts what was submitted to it
        return False

    if joins == "before the job":
        cluster.add_worker(f"strange-{joins.split(maxsplit=1)[0]}", address, prefix=unprivileged)
    wait_for_workers(workspace, 2 if joins == "before the job" else 1)
    _, job = workspace.scan("closed", stop, progress)
    assert job.state == "failed"
    assert f"on {socket.gethostname()} cannot read {labels}" in str(job.error)
    assert "Permission denied" in str(job.error)
    assert (progress.counted > 0) == (joins == "during the job")


def test_only_processes_with_the_keys_of_the_cluster_connect_to_its_scheduler(
    cluster: Cluster, workspace: Workspace, tmp_path: Path
) -> None:
    assert cluster.dask.startswith("tls://")
    assert {file.stat().st_mode & 0o777 for file in (cluster.folder / "tls").iterdir()} == {0o600}
    remote = RemoteCluster(cluster.dask)
    assert remote.client().nthreads()
    remote.close()
    with dask.config.set(tls_settings(tmp_path / "tls")), pytest.raises(ClusterAway, match="certificate"):
        RemoteCluster(cluster.dask).client()
    port = cluster.dask.rpartition(":")[2]
    plain = {"distributed.comm.require-encryption": False}
    with dask.config.set(plain), pytest.raises(ClusterAway):
        RemoteCluster(f"tcp://127.0.0.1:{port}").client()


def test_the_password_of_the_catalog_does_not_appear_on_a_command_line(
    cluster: Cluster, tmp_path: Path
) -> None:
    secret = "hunter2-of-nobody"
    database = cluster.home.database.replace("postgres@", f"postgres:{secret}@")
    serve = ("-m", "statsvc", "serve", "--port", "0", "--root", tmp_path, "--workers", 1)
    role = cluster.add("serve", sys.executable, *serve, STATSVC_DATABASE=database)

    def command_line_of_runner() -> str | None:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                text = file.read_text()
                if f"--parent\0{role.pid}\0" in text:
                    return text
        return None

    assert secret not in wait_for(command_line_of_runner)
    role.stop()
