"""`calculate_class_weights`, against counts and formulas written out in NumPy."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import logging
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import statsvc
from statsvc import calculate_class_weights
from statsvc.errors import InvalidParameter, Unanswerable
from statsvc.local import counts_file
from statsvc.local.fingerprint import fingerprint
from support.label_datasets import READS, Labels, street_labels, without_class_4

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Torch forks its workers; from Python 3.12 on, that warns in a process that has threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def counted(labels: list[Any], classes: int) -> NDArray[np.int64]:
    """Return the pixels of each class in each label, int64 [label, class], by comparing every pixel."""
    return np.array([[int((np.asarray(label) == c).sum()) for c in range(classes)] for label in labels])


def weights(dataset: Any, classes: int = 5, **arguments: Any) -> torch.Tensor:
    return calculate_class_weights(dataset, classes, verbose=False, **arguments)  # warnings name this file


def sqrt_weights(n: NDArray[Any]) -> NDArray[np.float64]:
    raw = np.where(n > 0, 1 / np.sqrt(np.maximum(n, 1) / n.sum()), 0)
    normalized: NDArray[np.float64] = raw / raw[n > 0].mean()
    return normalized


def test_the_signature_is_as_documented() -> None:
    parameters = list(inspect.signature(calculate_class_weights).parameters.values())
    defaults = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = inspect.Parameter.empty
    assert defaults == [
        ("dataset", missing),
        ("num_classes", missing),
        ("device", None),
        ("method", "sqrt_inv_freq"),
        ("ignore_index", 255),
        ("beta", 0.9999),
        ("samples", None),
        ("seed", 0),
        ("num_workers", 0),
        ("cache", None),
        ("verbose", True),
    ]


# Weights


def test_weights_are_float32_and_follow_from_an_exact_count() -> None:
    got = weights(Labels(street_labels()))
    assert got.dtype == torch.float32
    assert got.shape == (5,)
    np.testing.assert_allclose(got.numpy(), sqrt_weights(counted(street_labels(), 5).sum(axis=0)), rtol=1e-6)


def test_median_frequency_counts_the_images_in_which_a_class_occurs() -> None:
    rows = counted(street_labels(), 5)
    frequency = rows.sum(axis=0) / ((rows > 0) * rows.sum(axis=1, keepdims=True)).sum(axis=0)
    got = weights(Labels(street_labels()), method="median_freq", normalize="none")
    np.testing.assert_allclose(got.numpy(), np.median(frequency) / frequency, rtol=1e-6)


def test_effective_num_uses_beta_and_other_methods_ignore_it() -> None:
    n = counted(street_labels(), 5).sum(axis=0).astype(float)
    raw = (1 - 0.99) / (1 - 0.99**n)
    got = weights(Labels(street_labels()), method="effective_num", beta=0.99)
    np.testing.assert_allclose(got.numpy(), raw / raw.mean(), rtol=1e-6)
    assert torch.equal(weights(Labels(street_labels()), beta=0.5), weights(Labels(street_labels())))


def test_further_parameters_of_a_weights_request_are_accepted() -> None:
    n = counted(street_labels(), 6).sum(axis=0)
    got = weights(Labels(street_labels()), 6, method="power", alpha=1.0, normalize="sum", absent="one")
    np.testing.assert_allclose(got.numpy()[:5], (1 / n[:5]) / (1 / n[:5]).sum(), rtol=1e-6)
    assert got[5] == 1


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda label: label, "uint8 array"),
        (lambda label: label.astype(np.int64), "int64 array"),
        (lambda label: label.astype(">u2"), "big-endian array"),
        (lambda label: label.astype(np.int64)[None], "array with a channel"),
        (lambda label: label.T, "transposed array"),
        (torch.from_numpy, "uint8 tensor"),
        (lambda label: torch.from_numpy(label).long()[None], "long tensor with a channel"),
        (lambda label: torch.from_numpy(label.astype(np.uint16)), "uint16 tensor"),
        (Image.fromarray, "grey image"),
        (lambda label: Image.fromarray(label.astype(np.int32)), "32-bit image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_of_every_kind_give_the_same_weights(make: Callable[[Any], Any], what: str) -> None:
    assert torch.equal(
        weights(Labels([make(label) for label in street_labels()])), weights(Labels(street_labels()))
    )


def test_a_palette_image_is_counted_by_its_indices() -> None:
    labels = []
    for label in street_labels():
        image = Image.fromarray(label)
        image.putpalette([200, 10, 10] * 256)
        assert image.mode == "P"
        labels.append(image)
    assert torch.equal(weights(Labels(labels)), weights(Labels(street_labels())))


def test_bool_labels_are_classes_0_and_1() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:2] = True
    for label in (mask, torch.from_numpy(mask), Image.fromarray(mask)):
        got = weights(Labels([label]), 2, method="inverse_freq", normalize="none")
        np.testing.assert_allclose(got.numpy(), [100 / (2 * 80), 100 / (2 * 20)])


def test_large_and_negative_ids_are_reported_as_unexpected(caplog: pytest.LogCaptureFixture) -> None:
    label = np.array([[0, 0, 1, -1], [1, 1, 70000, 2**40]])
    weights([(None, label)], 2)
    assert "3 unexpected ids" in caplog.text
    for text in ("id -1 (1 pixel,", "id 70000 (1 pixel,", f"id {2**40} (1 pixel,", "in sample 0"):
        assert text in caplog.text
    np.testing.assert_allclose(
        weights([(None, label)], 2, method="inverse_freq", normalize="none"), [1.25, 5 / 6]
    )


def test_ignore_index_accepts_one_id_several_ids_or_no_id() -> None:
    label = np.array([[0, 1, 1, 2, 2, 2, 2]])
    one = weights([(None, label)], 3, ignore_index=2, method="inverse_freq", normalize="none")
    np.testing.assert_allclose(one.numpy(), [3 / (3 * 1), 3 / (3 * 2), 0])
    two = weights([(None, label)], 3, ignore_index=[0, 2], method="inverse_freq", normalize="none")
    np.testing.assert_allclose(two.numpy(), [0, 2 / (3 * 2), 0])
    everything = weights([(None, label)], 3, ignore_index=[], method="inverse_freq", normalize="none")
    np.testing.assert_allclose(everything.numpy(), [7 / 3, 7 / 6, 7 / 12], rtol=1e-6)


def test_wrapped_datasets_and_plain_lists_are_accepted() -> None:
    labels = street_labels()
    whole = Labels(labels)
    half = torch.utils.data.Subset(whole, range(0, 40, 2))
    assert torch.equal(weights(half), weights(Labels(labels[::2])))
    twice: Any = torch.utils.data.ConcatDataset([whole, whole])
    assert torch.equal(weights(twice), weights(whole))
    assert torch.equal(weights([(0, label, "name.png") for label in labels]), weights(whole))


def test_the_result_is_on_the_requested_device() -> None:
    assert weights(Labels(street_labels()), device="meta").device.type == "meta"
    assert weights(Labels(street_labels()), device=torch.device("cpu")).device.type == "cpu"


def test_an_invalid_device_is_rejected_before_anything_is_counted() -> None:
    class Unread(Labels):
        def __getitem__(self, index: int) -> Any:
            raise AssertionError("a label was read")

    with pytest.raises(InvalidParameter, match=r"device: Torch rejected 'gpu': .*Use for example 'cuda'"):
        weights(Unread(street_labels()), device="gpu")


def test_counts_beyond_two_to_the_24_stay_exact() -> None:
    labels = [np.zeros(2**22, np.uint8)] * 5 + [np.ones(1, np.uint8)]
    got = weights([(None, label) for label in labels], 2, method="inverse_freq", normalize="none")
    assert got[1] == np.float32((5 * 2**22 + 1) / 2)


# Reading


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes_give_identical_weights(context: str) -> None:
    if context == "spawn":
        code = (
            "import torch, numpy as np\n"
            "import torch.multiprocessing as mp\n"
            "from statsvc import calculate_class_weights\n"
            "from support.label_datasets import Labels, street_labels\n"
            "if __name__ == '__main__':\n"
            "    mp.set_start_method('spawn')\n"
            "    for n in (0, 2):\n"
            "        w = calculate_class_weights(Labels(street_labels()), 5, num_workers=n, verbose=False)\n"
            "        print(w.tolist())\n"
        )
        tests = Path(__file__).parents[1]
        script = Path(os.environ["STATSVC_HOME"]).with_suffix(".py")
        script.write_text(code)
        environment = {**os.environ, "PYTHONPATH": str(tests)}
        done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        alone, in_workers = done.stdout.splitlines()
        assert alone == in_workers
    else:
        assert torch.equal(weights(Labels(street_labels()), num_workers=2), weights(Labels(street_labels())))


def test_reading_labels_does_not_change_the_random_numbers_of_the_trainer() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the generator that trainers use
    random.seed(1)
    weights(Labels(street_labels()), samples=10, num_workers=1)
    after = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    assert after == (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: NPY002


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            torch.full((4, 4), 0.5),
            r"dtype torch\.float32, but class ids are integers\. Return label\.long\(\)",
        ),
        (np.ones((4, 4)), r"dtype float64.*ToTensor"),
        (torch.ones(4, 4, dtype=torch.bfloat16), "bfloat16"),
        (Image.new("RGB", (8, 8)), "mode RGB.*colors"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\).*colors"),
        (Image.new("F", (8, 8)), "float32"),
        (np.array([[2**63]], np.uint64), "does not fit in int64"),
        (np.arange(5000), "5000 different ids.*instance ids"),
        ({"mask": 1}, "a dict.*label map of class ids"),
        ("a.png", "a str.*label map"),
        (3, "a int.*label map"),
        (np.array(["road"]), "dtype <U4"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_labels_without_class_ids_are_rejected_with_the_sample_and_advice(
    label: Any, message: str, num_workers: int
) -> None:
    labels = [*street_labels()[:3], label]
    with pytest.raises(InvalidParameter, match=rf"dataset: Sample 3 .*{message}"):
        weights(Labels(labels), num_workers=num_workers)


@pytest.mark.parametrize("sample", [{"image": 0, "label": 1}, np.zeros((2, 2), np.uint8), (np.zeros(3),)])
def test_samples_that_are_not_pairs_are_rejected(sample: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"not \(image, label\)"):
        weights([sample])


def test_an_iterable_dataset_without_length_is_rejected_with_advice() -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([])

    streams: list[Any] = [Stream(), iter([]), (pair for pair in range(0))]
    for stream in streams:
        with pytest.raises(InvalidParameter, match=r"list\(itertools\.islice\(dataset, 1000\)\)"):
            weights(stream)


def test_an_empty_dataset_is_rejected() -> None:
    with pytest.raises(InvalidParameter, match="list is empty"):
        weights([])


def test_parameters_are_checked_before_a_label_is_read() -> None:
    READS.clear()
    for arguments in ({"method": "sqrt"}, {"normalise": "sum"}, {"method": "power"}, {"samples": 1}):
        with pytest.raises(InvalidParameter):
            weights(Labels(street_labels()), **arguments)
    for samples in (0, -3, 2.5, True, "10"):
        with pytest.raises(InvalidParameter, match="samples"):
            weights(Labels(street_labels()), samples=samples)
    assert READS == []


def test_too_many_ids_over_all_labels_are_rejected() -> None:
    with pytest.raises(Unanswerable, match="6000 different ids, from 0 to 5999"):
        weights([(None, np.arange(3000)), (None, np.arange(3000, 6000))])


def test_labels_without_a_counted_pixel_are_unanswerable() -> None:
    with pytest.raises(Unanswerable):
        weights([(None, np.full((3, 3), 255))])


def test_a_random_augmentation_causes_a_warning() -> None:
    transforms: list[Callable[[Any], Any]] = [np.asarray, np.zeros_like]
    turns = itertools.cycle(transforms)
    with pytest.warns(UserWarning, match=r"Two reads of dataset\[0\] returned different labels"):
        weights(Labels(street_labels(), transform=lambda label: next(turns)(label)))  # noqa: PLW0108 - another turn at each call


def test_the_warning_about_random_augmentation_points_to_the_caller() -> None:
    sizes = itertools.count(1)
    with pytest.warns(UserWarning, match="Two reads") as caught:
        calculate_class_weights(
            Labels(street_labels(), lambda _: np.zeros(next(sizes), int)), 1, verbose=False, num_workers=0
        )
    assert caught[0].filename == __file__


# Printing


def test_the_table_is_printed_with_its_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    calculate_class_weights(Labels(street_labels()), 6)
    out, err = capsys.readouterr()
    n = counted(street_labels(), 5).sum(axis=0)
    assert out.startswith("Labels · sqrt_inv_freq · 40 images · exact\n")
    assert "█" in out
    for c in range(5):
        assert f"{n[c]:,}" in out
    assert "warning: 1 of 6 classes has no pixels" in out
    assert err == ""


def test_without_verbose_nothing_is_printed_and_warnings_are_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    weights(Labels(street_labels()), 6)
    assert capsys.readouterr() == ("", "")
    assert [record.name for record in caplog.records if record.levelno == logging.WARNING] == [
        "statsvc.calculate"
    ]


# Sampling


def test_a_sample_is_drawn_without_replacement_and_labeled_an_estimate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    READS.clear()
    got = calculate_class_weights(Labels(street_labels()), 5, samples=12, seed=3)
    drawn = READS[2:]
    assert len(set(drawn)) == 12
    np.testing.assert_allclose(
        got.numpy(), sqrt_weights(counted([street_labels()[i] for i in drawn], 5).sum(axis=0)), rtol=1e-6
    )
    out = capsys.readouterr().out
    assert out.startswith("Labels · sqrt_inv_freq · 12 images · estimated from 12 of 40\n")
    assert "95 % interval" in out
    assert "not estimated" in out


def test_the_seed_determines_which_labels_are_drawn() -> None:
    def drawn(seed: int) -> list[int]:
        READS.clear()
        weights(Labels(street_labels()), samples=12, seed=seed)
        return READS[2:]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_sample_as_large_as_the_dataset_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    calculate_class_weights(Labels(street_labels()), 5, samples=40)
    assert "exact" in capsys.readouterr().out


def test_only_classes_in_enough_labels_have_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = [rng.choice([0, 1, 255], (4, 4), p=[0.5, 0.3, 0.2]) for _ in range(400)]
    labels[7][0, 0] = 2
    calculate_class_weights(Labels(labels), 4, samples=150, seed=1, ignore_index=[255, 3])
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line[:2].strip().isdecimal()}
    for class_id in "01":
        words = lines[class_id].split()
        share = float(words[2].rstrip("%"))
        low, high = (float(part) for part in words[3].rstrip("%").split("–"))
        assert low < share < high
    assert "not estimated" in lines["2"]
    assert "–" not in lines["3"]


# The cache


def reads_of(action: Callable[[], Any]) -> int:
    READS.clear()
    action()
    return len(READS)


def test_cached_counts_answer_every_method(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "counts.json"
    first = weights(Labels(street_labels()), cache=cache)
    rows = counted(street_labels(), 5)
    n = rows.sum(axis=0)

    def again() -> None:
        assert torch.equal(weights(Labels(street_labels()), cache=cache), first)

    assert reads_of(again) == 2 + 8  # dataset[0] twice, and the labels of the fingerprint

    def other_questions() -> None:
        inverse = weights(Labels(street_labels()), cache=cache, method="inverse_freq", normalize="none")
        np.testing.assert_allclose(inverse.numpy(), n.sum() / (5 * n), rtol=1e-6)
        median = weights(Labels(street_labels()), cache=cache, method="median_freq", normalize="none")
        frequency = n / ((rows > 0) * rows.sum(axis=1, keepdims=True)).sum(axis=0)
        np.testing.assert_allclose(median.numpy(), np.median(frequency) / frequency, rtol=1e-6)
        assert weights(Labels(street_labels()), 9, cache=cache).shape == (9,)
        assert weights(Labels(street_labels()), cache=cache, ignore_index=[255, 0])[0] == 0

    assert reads_of(other_questions) == 4 * (2 + 8)


def test_the_cache_has_an_entry_per_number_of_samples_and_seed(tmp_path: Path) -> None:
    cache = tmp_path / "counts.json"
    requests: list[dict[str, Any]] = [
        {},
        {"samples": 10},
        {"samples": 11},
        {"samples": 10, "seed": 1},
        {"seed": 5},  # all labels: the seed draws nothing
    ]

    def counted_labels(request: dict[str, Any]) -> int:
        return reads_of(lambda: weights(Labels(street_labels()), cache=cache, **request)) - (2 + 8)

    assert [counted_labels(request) for request in requests] == [40, 10, 11, 10, 0]
    assert [counted_labels(request) for request in requests] == [0, 0, 0, 0, 0]


def test_an_estimate_from_the_cache_is_labeled_an_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "counts.json"
    shown = []
    for _ in range(2):
        calculate_class_weights(Labels(street_labels()), 5, samples=10, cache=cache)
        shown.append(capsys.readouterr().out)
    assert "estimated" in shown[0]
    assert shown[0] == shown[1]


def shifted(label: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    return np.roll(label, by, axis=1)


def test_a_changed_dataset_is_counted_again(tmp_path: Path) -> None:
    files = []
    for k in range(12):
        files.append(tmp_path / f"{k}.png")
        Image.fromarray(street_labels()[k]).save(files[-1])

    class Files(Labels):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return None, np.asarray(Image.open(self.labels[index]))

    longer = [*street_labels(), street_labels()[0]]
    other = street_labels()
    other[39] = np.zeros_like(other[39])
    datasets: dict[str, Callable[[], Any]] = {
        "as it is": lambda: Labels(street_labels()),
        "one more": lambda: Labels(longer),
        "another last label": lambda: Labels(other),
        "a transform": lambda: Labels(street_labels(), without_class_4),
        "a lambda": lambda: Labels(street_labels(), lambda label: label + 0),
        "another lambda": lambda: Labels(street_labels(), lambda label: label**1),
        "a partial": lambda: Labels(street_labels(), functools.partial(shifted, by=1)),
        "another partial": lambda: Labels(street_labels(), functools.partial(shifted, by=2)),
        "another class": lambda: type("Other", (Labels,), {})(street_labels()),
        "a subset": lambda: torch.utils.data.Subset(Labels(street_labels()), list(range(20))),
        "another subset": lambda: torch.utils.data.Subset(Labels(street_labels()), [*range(18), 19, 18]),
        "files": lambda: Files([str(file) for file in files]),
        "fewer files": lambda: Files(files[:9]),
        "tensors": lambda: torch.utils.data.TensorDataset(
            torch.zeros(40), torch.tensor(np.stack(street_labels()))
        ),
    }
    digests = {name: fingerprint(make()) for name, make in datasets.items()}
    assert len(set(digests.values())) == len(digests)
    assert {name: fingerprint(make()) for name, make in datasets.items()} == digests

    # This label is not read for the fingerprint: only the modification time of the file differs.
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(files[1])
    assert fingerprint(datasets["files"]()) != digests["files"]


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "from support.label_datasets import Labels, street_labels, without_class_4\n"
        "from statsvc.local.fingerprint import fingerprint\n"
        "transforms = [without_class_4, {'a', 'b', 'c'}, lambda x: x in {'p', 'q'}]\n"
        "print(fingerprint(Labels(street_labels(), transforms[0])))"
    )
    tests = Path(__file__).parents[1]
    digests = set()
    for seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONPATH": str(tests),
            "PYTHONHASHSEED": seed,
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_sets_cycles_and_unusual_attributes_have_a_fingerprint() -> None:
    def make() -> Labels:
        dataset = Labels(street_labels(4))
        odd: Any = dataset
        odd.names, odd.myself, odd.log = {"road", "sky", "car"}, dataset, logging.getLogger("x")
        odd.generator, odd.nothing, odd.table = torch.Generator(), np.zeros(0), {"b": 1, "a": [1.5, None]}
        return dataset

    assert fingerprint(make()) == fingerprint(make())


def test_the_cache_notices_a_label_file_that_changed_below_the_root(tmp_path: Path) -> None:
    class Files:
        def __init__(self) -> None:
            self.root, self.names = str(tmp_path / "data"), [f"{n:03}.npy" for n in range(50)]

        def __len__(self) -> int:
            return len(self.names)

        def __getitem__(self, index: int) -> tuple[None, np.ndarray[Any, Any]]:
            return None, np.load(Path(self.root, "masks", self.names[index]))

    (tmp_path / "data" / "masks").mkdir(parents=True)
    for name in Files().names:
        np.save(tmp_path / "data" / "masks" / name, np.arange(16).reshape(4, 4) // 8)
    cache = tmp_path / "data" / "counts.json"
    before = weights(Files(), cache=cache)
    assert torch.equal(weights(Files(), cache=cache), before)
    np.save(tmp_path / "data" / "masks" / "003.npy", np.zeros((4, 4), np.int64))
    assert not torch.equal(weights(Files(), cache=cache), before)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"counts": [', b'"counts": [9', 1),
        lambda _: b'{"statsvc": "counts"',
        lambda _: b'{"statsvc": "counts", "entries": []}',
        lambda _: b'{"statsvc": "counts", "entries": {"KEY": 1}}',
        lambda _: b'{"statsvc": "counts", "entries": {"KEY": {"sha256": "0"}}}',
    ],
)
def test_a_damaged_cache_is_counted_again_with_a_warning(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    cache = tmp_path / "counts.json"
    expected = weights(Labels(street_labels()), cache=cache)
    key = next(iter(json.loads(cache.read_bytes())["entries"]))
    cache.write_bytes(damage(cache.read_bytes()).replace(b"KEY", key.encode()))
    with pytest.warns(UserWarning, match=r"counts\.json is damaged") as caught:
        assert torch.equal(weights(Labels(street_labels()), cache=cache), expected)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reads_of(lambda: weights(Labels(street_labels()), cache=cache)) == 10


def test_a_file_of_another_program_is_never_overwritten(tmp_path: Path) -> None:
    for content in (b'{"lr": 0.1}', b"\x80\x02torch", b"notes"):
        cache = tmp_path / "config.json"
        cache.write_bytes(content)
        with pytest.warns(UserWarning, match="was not created by statsvc"):
            weights(Labels(street_labels()), cache=cache)
        assert cache.read_bytes() == content


def test_an_empty_file_becomes_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "counts.json"
    cache.touch()
    weights(Labels(street_labels()), cache=cache)
    assert reads_of(lambda: weights(Labels(street_labels()), cache=cache)) == 10


def test_a_cache_that_cannot_be_written_causes_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be saved") as caught:
        got = weights(Labels(street_labels()), cache=tmp_path / "file" / "counts.json")
    assert torch.equal(got, weights(Labels(street_labels())))
    assert [warning.filename for warning in caught] == [__file__]


def test_a_folder_as_cache_is_rejected_before_a_label_is_read(tmp_path: Path) -> None:
    READS.clear()
    with pytest.raises(InvalidParameter, match=r"cache: .* is a folder\. Name a file"):
        weights(Labels(street_labels()), cache=tmp_path)
    assert READS == []


def test_only_the_newest_entries_are_kept_and_no_temporary_file(tmp_path: Path) -> None:
    cache = tmp_path / "counts.json"
    for seed in range(10):
        weights(Labels(street_labels()), samples=2, seed=seed, cache=cache)
    assert len(json.loads(cache.read_bytes())["entries"]) == 8
    assert reads_of(lambda: weights(Labels(street_labels()), samples=2, seed=9, cache=cache)) == 10
    assert list(tmp_path.glob("*counts*")) == [cache]


def test_a_failed_write_leaves_the_old_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "counts.json"
    weights(Labels(street_labels()), cache=cache)
    before = cache.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.warns(UserWarning, match="No space left"):
        counts_file.store(cache, "other", counts_file.Counts([0], [0, 1], [0], [1]))
    assert cache.read_bytes() == before


def test_the_function_can_be_imported_without_torch() -> None:
    code = "import sys; from statsvc import calculate_class_weights; print('torch' in sys.modules)"
    root = Path(statsvc.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_method_without_class_weights_warns_how_to_use_its_vector() -> None:
    with pytest.warns(
        UserWarning, match="logit_adjustment returns additive instead of class weights; add them"
    ):
        calculate_class_weights(Labels([np.array([[0, 0, 1]])]), 2, method="logit_adjustment", verbose=False)


def test_numpy_and_tensor_scalars_are_the_same_arguments_as_numbers(tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"ignore_index": 3, "beta": 0.5, "strength": 0.25, "seed": 7, "samples": 4}
    scalars = {name: np.asarray(value)[()] for name, value in numbers.items()}
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
    tensors |= {name: torch.tensor(numbers[name]) for name in ("ignore_index", "seed", "samples")}
    labels = Labels(street_labels())
    expected = weights(labels, method="effective_num", **numbers)
    for arguments in (scalars, tensors):
        cache = tmp_path / type(arguments["seed"]).__name__
        result = weights(labels, np.int64(5), method="effective_num", cache=cache, **arguments)  # type: ignore[arg-type]
        torch.testing.assert_close(result, expected)
