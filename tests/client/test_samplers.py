"""The samplers: their draws over many epochs, on several ranks, and after resuming."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

import statsvc
from statsvc.dataset.splits import detect
from statsvc.errors import InvalidParameter, NotFound, Unanswerable
from statsvc.samplers import ImageWeightSampler, RareClassSampler, RepeatFactorSampler, StatisticsSampler
from statsvc.sampling import path_join
from statsvc.sampling.result import Sampling, of_table
from statsvc.store import home as homes
from support.publishing import publish
from support.reference_samplers import PATHS, PIXELS, daformer_probabilities, label_maps, lvis_repeat_factors
from support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("home")))
    publish(home, "street", label_maps() | {"train/broken.png": "truncated"}, num_classes=4)
    with serving(home) as url:
        yield url


def sampling(sampler: str, probability: Sequence[float], **head: Any) -> Sampling:
    """Return probabilities as a server returns them, for images named by their index."""
    n = len(probability)
    defaults = {"dataset": "example", "version": 1, "spec": {}, "failed": 0, "classes": [], "warnings": []}
    paths = [f"{k:07}.png" for k in range(n)]
    return Sampling({**defaults, "sampler": sampler, "images": n, "epoch": float(n), **head}, paths,
                    np.array(probability, float))  # fmt: skip


def rare(probability: Sequence[float], **options: Any) -> RareClassSampler:
    source = sampling("rare_class", probability)
    return RareClassSampler(source.paths, source, **options)


def epochs(sampler: StatisticsSampler, number: int) -> list[int]:
    drawn: list[int] = []
    for epoch in range(number):
        sampler.set_epoch(epoch)
        drawn += sampler
    return drawn


def chi_square(drawn: Sequence[int], q: np.ndarray[Any, Any]) -> float:
    """Return Pearson's chi-square statistic per degree of freedom: about 1 if the draws follow q."""
    expected = q * len(drawn)
    counts = np.bincount(drawn, minlength=len(q))
    assert not counts[expected == 0].any()
    possible = expected > 0
    squares = (counts - expected)[possible] ** 2 / expected[possible]
    return float(squares.sum() / max(possible.sum() - 1, 1))


def test_rare_class_draws_follow_daformers_formula(server: str) -> None:
    shuffled = ["/mnt/x/" + PATHS[k] for k in (3, 0, 5, 1, 4, 2)]
    sampler = RareClassSampler(shuffled, server, dataset="street", temperature=0.3, min_pixels=20, seed=1)
    q = np.array(daformer_probabilities(PIXELS, 0.3, 20))[[3, 0, 5, 1, 4, 2]]
    np.testing.assert_allclose(sampler.probability, q, rtol=1e-9)
    drawn = epochs(sampler, 2000)
    assert len(drawn) == 2000 * 6
    assert chi_square(drawn, q) < 2.5
    # The statistic detects another temperature.
    assert chi_square(drawn, np.array(daformer_probabilities(PIXELS, 0.4, 20))[[3, 0, 5, 1, 4, 2]]) > 5


def test_an_epoch_has_each_image_as_often_as_its_repeat_factor_in_lvis(server: str) -> None:
    sampler = RepeatFactorSampler(PATHS, server, dataset="street", threshold=0.9, seed=2)
    r = np.array(lvis_repeat_factors(PIXELS, 0.9))
    assert len(sampler) == int(np.ceil(r.sum()))
    wanted = r * len(sampler) / r.sum()
    epoch_counts = []
    for epoch in range(600):
        sampler.set_epoch(epoch)
        counts = np.bincount(list(sampler), minlength=6)
        assert ((counts == np.floor(wanted)) | (counts == np.ceil(wanted))).all()
        epoch_counts.append(counts)
    np.testing.assert_allclose(np.mean(epoch_counts, axis=0), wanted, atol=0.06)


def test_an_epoch_of_equal_repeat_factors_is_a_permutation() -> None:
    source = sampling("repeat_factor", [1 / 500] * 500)
    sampler = RepeatFactorSampler(source.paths, source)
    first = list(sampler)
    assert sorted(first) == list(range(500))
    assert first != list(range(500))


def test_the_weight_of_an_image_is_the_mean_class_weight_of_its_pixels(server: str) -> None:
    weights = statsvc.Client(server).weights("street", method="inverse_freq", clip=(0, 2)).to_list()
    sampler = ImageWeightSampler(PATHS, server, dataset="street", method="inverse_freq", clip=(0, 2), seed=3)
    mean = np.array([sum(row * np.array(weights)) / row.sum() if row.sum() else 0 for row in PIXELS])
    np.testing.assert_allclose(sampler.probability, mean / mean.sum(), rtol=1e-9)
    assert chi_square(epochs(sampler, 1000), mean / mean.sum()) < 2.5


def test_draws_depend_only_on_seed_and_epoch() -> None:
    q = np.random.default_rng(0).random(50).tolist()
    first = [list(rare(q, seed=7)), list(rare(q, seed=7))]
    assert first[0] == first[1]
    other = rare(q, seed=7)
    other.set_epoch(1)
    assert list(other) not in (first[0], list(rare(q, seed=8)))
    np.random.seed(1)  # noqa: NPY002 - the global generator must have no effect
    assert list(rare(q, seed=7)) == first[0]


def test_images_of_probability_0_are_never_drawn_among_more_than_2_to_the_24_images() -> None:
    # torch.multinomial is limited to 2^24 entries.
    q = np.zeros(2**24 + 3)
    q[[0, 5, 2**24 + 1]] = 1.0
    from statsvc.samplers import _inverse_cdf

    drawn = _inverse_cdf(q, np.array([0.0, 0.3, 0.4, 0.9, 1 - 2**-53]))
    assert drawn.tolist() == [0, 0, 5, 2**24 + 1, 2**24 + 1]


@pytest.mark.parametrize("draws", [40, 41, 43])
@pytest.mark.parametrize("kind", [RareClassSampler, RepeatFactorSampler])
def test_the_ranks_divide_the_draws_of_a_single_process(kind: type[StatisticsSampler], draws: int) -> None:
    source = sampling(kind.sampler, np.random.default_rng(1).random(30).tolist())
    alone = list(kind(source.paths, source, seed=5, num_samples=draws))
    ranks = [
        kind(source.paths, source, seed=5, num_samples=draws, rank=rank, num_replicas=4) for rank in range(4)
    ]
    parts = [list(rank) for rank in ranks]
    length = -(-draws // 4)
    assert [len(part) for part in parts] == [len(rank) for rank in ranks] == [length] * 4
    # Interleaved, they are the draws of one process, followed by the repeated ones that equalize the lengths.
    interleaved = [index for step in zip(*parts, strict=True) for index in step]
    assert interleaved == alone + alone[: 4 * length - draws]


def test_a_resumed_epoch_continues_at_its_position(tmp_path: Path) -> None:
    q = np.random.default_rng(2).random(60).tolist()
    complete = rare(q, seed=3)
    complete.set_epoch(4)
    draws = list(complete)

    stopped = rare(q, seed=3)
    stopped.set_epoch(4)
    running = iter(stopped)
    first = [next(running) for _ in range(25)]
    state = stopped.state_dict()

    resumed = rare(q, seed=3)
    resumed.load_state_dict(state)
    resumed.set_epoch(4)  # as a training loop does
    assert len(resumed) == 35
    assert first + list(resumed) == draws
    # The following epochs are complete.
    assert len(resumed) == 60
    resumed.set_epoch(5)
    complete.set_epoch(5)
    assert list(resumed) == list(complete)


def test_the_state_of_a_resumed_epoch_counts_from_the_beginning_of_the_epoch() -> None:
    q = np.random.default_rng(2).random(60).tolist()
    draws = list(rare(q))
    sampler = rare(q)
    sampler.load_state_dict({**sampler.state_dict(), "done": 20})
    running = iter(sampler)
    drawn = [next(running) for _ in range(15)]
    resumed = rare(q)
    resumed.load_state_dict(sampler.state_dict())
    assert drawn + list(resumed) == draws[20:]


def test_an_epoch_can_be_resumed_on_another_number_of_ranks() -> None:
    q = np.random.default_rng(4).random(40).tolist()
    draws = list(rare(q))
    ranks = [rare(q, rank=rank, num_replicas=4) for rank in range(4)]
    state = ranks[2].state_dict(consumed=5)
    resumed = [rare(q, rank=rank, num_replicas=2) for rank in range(2)]
    for sampler in resumed:
        sampler.load_state_dict(state)
    assert [index for step in zip(*resumed, strict=True) for index in step] == draws[20:]


def test_the_state_after_a_complete_epoch_resumes_with_the_next_epoch() -> None:
    q = np.random.default_rng(5).random(20).tolist()
    sampler = rare(q)
    list(sampler)
    resumed = rare(q)
    resumed.load_state_dict(sampler.state_dict())
    other = rare(q)
    other.set_epoch(1)
    assert resumed.epoch == 1
    assert list(resumed) == list(other)


def test_indices_that_workers_prefetched_are_drawn_again() -> None:
    q = np.random.default_rng(6).random(64).tolist()
    draws = list(rare(q))
    sampler = rare(q)
    items: Any = range(64)
    loader: DataLoader[Any] = DataLoader(items, batch_size=4, sampler=sampler, num_workers=1)
    batches = iter(loader)
    trained = [next(batches).tolist() for _ in range(3)]
    state = sampler.state_dict(consumed=3 * 4)
    assert sampler.state_dict()["done"] > 12  # the worker has prefetched
    resumed = rare(q)
    resumed.load_state_dict(state)
    assert [index for batch in trained for index in batch] + list(resumed) == draws


def test_a_state_of_other_draws_is_rejected() -> None:
    q = np.random.default_rng(7).random(20)
    state = rare(q.tolist()).state_dict()
    for other, name in (
        (rare(q.tolist(), seed=1), "seed"),
        (rare(q.tolist(), num_samples=19), "num_samples"),
        (rare(q[::-1].tolist()), "digest"),
    ):
        with pytest.raises(InvalidParameter) as caught:
            other.load_state_dict(state)
        assert caught.value.errors[0][0] == name


RANK = """
import sys, torch.distributed as dist
from statsvc.samplers import RareClassSampler
rank, url, store, sync = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "sync"
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
sampler = RareClassSampler([f"train/{k:04}.png" for k in range(6)], url, dataset="street",
                           version=None if sync else 1,
                           temperature=0.3, min_pixels=20, seed=9, num_samples=101, sync=sync)
sampler.set_epoch(3)
print(*sampler)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("sync", ["sync", "alone"])
def test_rank_and_num_replicas_default_to_those_of_torch_distributed(
    server: str, tmp_path: Path, sync: str
) -> None:
    # With sync, only rank 0 needs a server.
    urls = [server, "http://127.0.0.1:9" if sync == "sync" else server]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RANK, str(rank), url, str(tmp_path / "store"), sync],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, url in enumerate(urls)
    ]
    parts = [[int(index) for index in process.communicate(timeout=240)[0].split()] for process in ranks]
    alone = RareClassSampler(
        PATHS, server, dataset="street", temperature=0.3, min_pixels=20, seed=9, num_samples=101
    )
    alone.set_epoch(3)
    assert [len(part) for part in parts] == [51, 51]
    assert [index for step in zip(*parts, strict=True) for index in step][:101] == list(alone)


def test_an_invalid_rank_is_rejected() -> None:
    for options in ({"rank": 1}, {"num_replicas": 2}, {"rank": 2, "num_replicas": 2}):
        with pytest.raises(InvalidParameter, match="rank"):
            rare([1.0, 2.0], **options)


def test_a_local_scan_can_be_the_source(tmp_path: Path) -> None:
    for path, labels in label_maps().items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        np.save((tmp_path / path).with_suffix(".npy"), labels)
    table = statsvc.scan(tmp_path, num_classes=4)
    files = sorted(tmp_path.rglob("*.npy"))
    assert repr(table) == f"<LocalTable of {tmp_path.name}: 6 label maps, 4 classes>"
    sampler = RareClassSampler(files, table, temperature=0.3, min_pixels=20)
    np.testing.assert_allclose(sampler.probability, daformer_probabilities(PIXELS, 0.3, 20), rtol=1e-9)
    weights = table.weights(sampler="rare_class", temperature=0.3, min_pixels=20).to_list()
    share = (q := np.array(daformer_probabilities(PIXELS, 0.3, 20))) @ PIXELS / (q @ PIXELS).sum()
    np.testing.assert_allclose(weights, share**-0.5 / (share**-0.5).mean(), rtol=1e-9)
    items: Any = range(6)
    loader: DataLoader[Any] = DataLoader(items, batch_size=2, sampler=sampler)
    assert len([index for batch in loader for index in batch.tolist()]) == 6


def test_the_error_for_paths_without_statistics_names_them(server: str) -> None:
    paths = [*PATHS, "train/new.png", "train/broken.png"]
    with pytest.raises(InvalidParameter) as caught:
        RareClassSampler(paths, server, dataset="street")
    message = str(caught.value)
    assert "2 of 8 paths are not in the statistics: train/new.png, train/broken.png" in message
    assert "1 label maps could not be read" in message
    skipping = RareClassSampler(paths, server, dataset="street", min_pixels=20, unmatched="skip")
    assert skipping.probability[6:].tolist() == [0, 0]
    average = RareClassSampler(paths, server, dataset="street", min_pixels=20, unmatched="average")
    np.testing.assert_allclose(average.probability[6:], 1 / 6 / (1 + 2 / 6))
    with pytest.raises(InvalidParameter, match="2 of 2 paths"):
        RareClassSampler(["x/a.png", "b.png"], server, dataset="street", unmatched="skip")
    with pytest.raises(InvalidParameter, match="did you mean 'skip'"):
        RareClassSampler(paths, server, dataset="street", unmatched="skipp")


def test_the_error_for_paths_of_another_split_names_the_split(tmp_path: Path) -> None:
    maps = {path.replace("train/", f"{'val' if k > 3 else 'train'}/"): labels
            for k, (path, labels) in enumerate(label_maps().items())}  # fmt: skip
    for path, labels in maps.items():
        (tmp_path / "maps" / path).parent.mkdir(parents=True, exist_ok=True)
        np.save((tmp_path / "maps" / path).with_suffix(".npy"), labels)
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", maps, num_classes=4, splits=detect(maps))
    options: dict[str, Any] = {"split": "train", "min_pixels": 20}
    message = "The dataset has 2 of them, 2 in split 'val': use split='val' for these"
    with serving(home) as url, pytest.raises(InvalidParameter) as caught:
        RareClassSampler([*maps, "new.png"], url, **options)
    assert "3 of 7 paths are not in the statistics" in str(caught.value)
    assert message in str(caught.value)
    table = statsvc.scan(tmp_path / "maps", num_classes=4)
    with pytest.raises(InvalidParameter, match=message):
        RareClassSampler(sorted((tmp_path / "maps").rglob("*.npy")), table, **options)


def test_images_without_a_path_are_excluded_with_a_warning(server: str) -> None:
    q = np.array(daformer_probabilities(PIXELS, 0.3, 20))[:4]
    with pytest.warns(UserWarning, match="2 of the 6 images in the statistics of street"):
        sampler = RareClassSampler(PATHS[:4], server, dataset="street", temperature=0.3, min_pixels=20)
    np.testing.assert_allclose(sampler.probability, q / q.sum(), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:.* of the 6 images in the statistics")
def test_paths_that_all_have_probability_0_are_rejected(server: str) -> None:
    with pytest.raises(Unanswerable, match="have probability 0"):
        RareClassSampler(PATHS[4:5], server, dataset="street", min_pixels=20)


def test_paths_are_matched_by_their_last_folders_and_file_name() -> None:
    known = ["train/a.png", "train/b.png", "val/a.png"]
    join = path_join.join
    assert join(["/data/x/train/a.png", Path("val/a.png"), "b.png"], known).tolist() == [0, 2, 1]
    # Only complete names match, and not in other folders.
    assert join(["xtrain/a.png", "/d/train/aa.png", "other/b.png"], known).tolist() == [-1, -1, -1]
    with pytest.raises(InvalidParameter, match=r"a\.png matches train/a\.png and val/a\.png\. Set root"):
        join(["a.png"], known)
    nested = ["a.png", "train/a.png"]
    with pytest.raises(InvalidParameter, match="1 of 1 paths match more than one"):
        join(["/data/train/a.png"], nested)
    assert join(["/data/train/a.png", "/data/a.png", "a.png"], nested, root="/data").tolist() == [1, 0, 0]
    assert join(["/data/train/a.png"], nested, root="/data/train").tolist() == [0]
    assert join(["/elsewhere/a.png"], nested, root="/data").tolist() == [-1]


def test_parameters_that_a_source_already_contains_are_rejected(server: str) -> None:
    source = sampling("rare_class", [0.5, 0.5])
    redundant: list[dict[str, Any]] = [{"temperature": 0.1}, {"dataset": "street"}, {"version": 1}]
    for options in redundant:
        with pytest.raises(InvalidParameter, match="is already part of the source"):
            RareClassSampler(source.paths, source, **options)
    with pytest.raises(
        InvalidParameter, match="source: has probabilities for rare_class, not for repeat_factor"
    ):
        RepeatFactorSampler(source.paths, source)
    with pytest.raises(NotFound, match="street"):
        RareClassSampler(source.paths, server, dataset="stret")
    with pytest.raises(InvalidParameter, match="threshold belongs to sampler=repeat_factor"):
        RareClassSampler(source.paths, server, dataset="street", threshold=0.1)


def test_all_pages_come_from_the_same_version(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from statsvc.sampling import result

    monkeypatch.setattr(result, "PAGE", 4)
    client = statsvc.Client(server)
    newest = client.sampling(sampler="repeat_factor", threshold=0.9)
    assert newest.paths == PATHS
    r = np.array(lvis_repeat_factors(PIXELS, 0.9))
    np.testing.assert_allclose(newest.probability * newest.epoch, r, rtol=1e-9)
    assert (newest.dataset, newest.version, newest.images, newest.failed) == ("street", 1, 6, 1)
    assert newest.spec["threshold"] == 0.9
    numbered = client.sampling("street", sampler="repeat_factor", threshold=0.9, version=1)
    assert numbered.paths == newest.paths
    repeated = client.sampling(newest.dataset, sampler=newest.sampler, version=newest.version, **newest.spec)
    assert repeated.probability.tolist() == newest.probability.tolist()


def test_the_dataset_is_required_if_the_server_has_several(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "a", label_maps(), num_classes=4)
    publish(home, "b", label_maps(), num_classes=4)
    with (
        serving(home) as url,
        pytest.raises(InvalidParameter, match="the server has 2 datasets; choose one of a, b"),
    ):
        statsvc.Client(url).sampling(sampler="rare_class")


def test_a_string_is_rejected_where_a_list_is_expected(server: str) -> None:
    with pytest.raises(InvalidParameter, match=r"paths: 'train/0000.png' is a single path; use a list"):
        RareClassSampler(PATHS[0], server, dataset="street")
    with pytest.raises(InvalidParameter, match="expect_classes: 'sky' is a string; use a list of names"):
        statsvc.Client(server).weights("street", expect_classes="sky")


def test_a_table_in_memory_has_the_same_probabilities_as_the_server(server: str) -> None:
    from support.small_tables import table_of

    rows = [dict(zip([0, 1, 2, 3, 255], [*row, 1000 - sum(row)], strict=True)) for row in PIXELS.tolist()]
    table = table_of(rows, PATHS, num_classes=4)
    for sampler in ("rare_class", "repeat_factor", "image_weights"):
        local, remote = of_table(table, sampler, {}), statsvc.Client(server).sampling(sampler=sampler)
        assert local.probability.tolist() == remote.probability.tolist()
        assert local.spec == remote.spec
        assert local.probability.sum() == pytest.approx(1)


def test_draws_do_not_change_between_releases() -> None:
    q = np.arange(1, 11) / 55
    source = sampling("repeat_factor", q.tolist(), epoch=20.0)
    assert list(rare(q.tolist(), seed=42)) == GOLDEN["rare"]
    assert list(RepeatFactorSampler(source.paths, source, seed=42)) == GOLDEN["repeat"]


GOLDEN: dict[str, list[int]] = {
    "rare": [8, 6, 9, 8, 2, 9, 8, 8, 3, 6],
    "repeat": [4, 3, 8, 7, 0, 8, 7, 9, 6, 8, 9, 5, 9, 7, 4, 8, 2, 9, 6, 5],
}
"""Draws of the first release, which a resumed run must reproduce."""
