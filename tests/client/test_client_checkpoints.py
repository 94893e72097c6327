"""Pinned weights: a resumed run uses the weights that it started with, even if the dataset has changed."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import statsvc
from statsvc.client.client import Client
from statsvc.errors import InvalidParameter
from statsvc.store import home as homes
from statsvc.weighting.class_weights import ClassWeights
from support.publishing import label_maps, publish
from support.servers import serving
from support.waiting import wait_for_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("road", "person", "pole", "sky")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = homes.resolve(str(tmp_path_factory.mktemp("checkpoints") / "home"))
    publish(home, "street", label_maps(), num_classes=4, class_names=NAMES)
    publish(home, "bare", label_maps(), num_classes=4)
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def record(url: str) -> dict[str, Any]:
    return (
        Client(url).weights("street", method="effective_num", beta="1-1e-3", ignore_index=[255, 3]).to_dict()
    )


def test_a_resumed_run_has_the_same_weights_after_the_dataset_changed(tmp_path: Path) -> None:
    home = homes.resolve(str(tmp_path / "home"))
    publish(home, "street", label_maps(), num_classes=4)

    with serving(home) as running:

        def weights(checkpoint: dict[str, Any]) -> ClassWeights:
            pinned = checkpoint.get("class_weights")
            return Client(running).weights("street", method="inverse_freq", pinned=pinned)

        first = weights({})
        model = torch.nn.Linear(2, 4)
        state = {"model": model.state_dict(), "class_weights": first.to_dict()}
        torch.save(state, tmp_path / "last.pt")
        publish(home, "street", label_maps(seed=1), num_classes=4)
        new = wait_for_version(2, lambda: weights({}))
        assert new.to_list() != first.to_list()
        resumed = weights(torch.load(tmp_path / "last.pt", weights_only=True))
        by_number = Client(running).weights("street", method="inverse_freq", version=1)

    assert (resumed.version, resumed.spec) == (1, first.spec)
    assert resumed.to_list() == first.to_list()
    assert torch.equal(resumed.tensor(), first.tensor())
    assert by_number.digest == resumed.digest != new.digest
    # The server has stopped: pinned weights need neither a request nor a URL.
    tensor = statsvc.class_weights(pinned=torch.load(tmp_path / "last.pt")["class_weights"])
    assert torch.equal(tensor, first.tensor())


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"dataset": "street"},
        {"version": 1},
        {"version": "1"},
        {"version": "a-tag"},
        {"method": "effective_num", "beta": 1 - 1e-3},
        {"method": "effective_num", "ignore_index": (3, 255)},
        {"ignore": np.array([3, 255])},
        {"num_classes": 4, "class_map": "none", "normalize": "mean", "clip": None, "split": None},
    ],
)
def test_a_query_that_agrees_with_the_record_returns_it(
    record: dict[str, Any], query: dict[str, Any]
) -> None:
    client = Client("http://127.0.0.1:1")
    assert client.weights(pinned=record, **query).to_dict() == record


@pytest.mark.parametrize(
    "query",
    [
        {"method": "power", "alpha": 1 / 3},
        {"recipe": "erfnet-decoder"},
        {"recipe": "segnet", "num_classes": 3},
        {"method": "logit_adjustment"},
        {"multiply": {"person": 2, "0": 0.5}, "clip": (0.1, 10), "ignore_index": []},
    ],
)
def test_the_query_of_a_record_agrees_with_it(url: str, query: dict[str, Any]) -> None:
    record = Client(url).weights("street", **query).to_dict()
    away = Client("http://127.0.0.1:1")
    assert away.weights("street", pinned=record, **query).to_dict() == record
    for name, value in query.items():
        assert away.weights(pinned=record, **{name: value}).to_dict() == record
    with pytest.raises(InvalidParameter, match="the pinned weights have"):
        away.weights(pinned=record, method="median_freq_global")


@pytest.mark.parametrize(
    ("query", "name", "recorded", "requested"),
    [
        ({"dataset": "bare"}, "dataset", "'street'", "'bare'"),
        ({"version": 2}, "version", "1", "2"),
        ({"method": "enet"}, "method", "'effective_num'", "'enet'"),
        ({"method": "effective_num", "beta": 0.9}, "beta", "0.999", "0.9"),
        ({"beta": 0.9}, "beta", "0.999", "0.9"),
        ({"recipe": "segnet"}, "recipe", "None", "'segnet'"),
        ({"ignore_index": [255]}, "ignore_index", "[3, 255]", "[255]"),
        ({"split": "train"}, "split", "None", "'train'"),
        ({"clip": (0.1, 10)}, "clip", "None", "[0.1, 10.0]"),
        ({"multiply": {"pole": 2}}, "multiply", "None", "{'pole': 2.0}"),
    ],
)
def test_a_query_that_contradicts_the_record_is_rejected_by_name(
    record: dict[str, Any], query: dict[str, Any], name: str, recorded: str, requested: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        statsvc.class_weights(pinned=record, **query)
    assert [error[0] for error in caught.value.errors] == [name]
    assert (
        f"the pinned weights have {recorded}, not {requested}. To request new weights, leave out pinned"
        in str(caught.value)
    )


def test_a_misspelled_parameter_is_rejected_with_pinned_weights_too(record: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=r"unknown parameter \(did you mean 'method'"):
        Client("http://a").weights(pinned=record, metod="enet")


@pytest.mark.parametrize("damage", [[], "x", {}, {"weights": [1.0]}, 3, {"model": 1}])
def test_a_malformed_record_is_rejected(damage: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"the record was not returned by ClassWeights\.to_dict\(\)"):
        ClassWeights.from_dict(damage)


def test_a_truncated_record_is_rejected(record: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="does not contain one finite number for each class"):
        ClassWeights.from_dict(record | {"weights": record["weights"][:-1]})


def test_weights_can_be_pickled_and_compared_by_digest(url: str) -> None:
    weights = Client(url).weights("street")
    copy = pickle.loads(pickle.dumps(weights))
    assert copy.to_dict() == weights.to_dict()
    assert copy.digest == weights.digest == ClassWeights.from_dict(weights.to_dict()).digest
    assert len(weights.digest) == 16
    assert weights.digest != Client(url).weights("street", method="uniform").digest


# expect_classes


def test_matching_class_names_are_accepted(url: str, record: dict[str, Any]) -> None:
    assert statsvc.class_weights(url, dataset="street", expect_classes=NAMES).shape == (4,)
    assert len(Client(url).weights("street", expect_classes=list(NAMES))) == 4
    assert len(Client(url).weights(pinned=record, expect_classes=NAMES)) == 4


@pytest.mark.parametrize(
    ("dataset", "expected", "message"),
    [
        ("street", ("road", "pole", "person", "sky"), "class 1 is 'person', not 'pole'; class 2 is 'pole'"),
        ("street", ("road", "pole", "person", "sky"), "the same but in another order"),
        ("street", (*NAMES, "void"), "the dataset has 4 classes, not 5"),
        ("street", ("road", "person", "pole", "Sky"), "class 3 is 'sky', not 'Sky'"),
        (
            "street",
            [f"c{i}" for i in range(9)],
            "the dataset has 4 classes, not 9; class 0 is 'road', not 'c0'",
        ),
        ("bare", NAMES, "the dataset has no class names"),
    ],
)
def test_the_error_for_other_class_names_says_which_ones_differ(
    url: str, dataset: str, expected: list[str], message: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        statsvc.class_weights(url, dataset=dataset, expect_classes=expected)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"expect_classes: {dataset}: ")


def test_the_error_for_many_different_names_counts_the_remaining_ones() -> None:
    classes = [{"id": i, "name": f"a{i}"} for i in range(40)]
    body = dict.fromkeys(("dataset", "version", "method", "kind", "spec", "exact", "warnings"))
    weights = ClassWeights(body | {"classes": classes, "weights": [1.0] * 40})
    with pytest.raises(InvalidParameter, match="class 5 is 'a5', not 'b5'; and 34 more; "):
        weights.require_classes([f"b{i}" for i in range(40)])
