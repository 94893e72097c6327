"""Comparison of methods in Python and on the command line, and weights of streams on the command line."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from statsvc.cli import cli
from statsvc.errors import InvalidParameter
from statsvc.sampling.weights import weights_response
from statsvc.store import home as homes
from statsvc.weighting import comparison
from statsvc.weighting.comparison_table import print_comparison
from statsvc.weighting.methods import METHODS
from statsvc.weighting.parameters import WeightSpec
from support.commands import statsvc
from support.publishing import publish
from support.reference_samplers import PATHS, PIXELS, daformer_probabilities, label_maps
from support.servers import serving
from support.small_tables import TotalsTable, camvid, cityscapes

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from statsvc.dataset.table import Table
    from statsvc.store.home import Home


def compare(table: Table, reading: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return comparison.compare(
        lambda params: weights_response(table, WeightSpec.from_params(params)), reading or {}, **options
    )


def named(compared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: candidate for candidate in compared["candidates"] for name in candidate["names"]}


def test_loss_shares_and_moved_parts_follow_the_formulas() -> None:
    compared = compare(camvid(num_classes=11, ignore_index=(11,)))
    n = np.array([row["pixels"] for row in compared["classes"]], float)
    p = n / n.sum()
    for name, w in (("uniform", p**0), ("sqrt_inv_freq", p**-0.5), ("inverse_freq", 1 / p),
                    ("power alpha=0.25", p**-0.25), ("inverse_eps", 1 / (p + 0.001))):  # fmt: skip
        one = named(compared)[name]
        share = p * w / (p * w).sum()
        default = p**0.5 / (p**0.5).sum()
        np.testing.assert_allclose(one["loss_share"], share, rtol=1e-9)
        assert one["ratio"] == pytest.approx(w.max() / w.min())
        assert one["moved"]["uniform"] == pytest.approx(np.abs(share - p).sum() / 2, abs=1e-12)
        assert one["moved"]["default"] == pytest.approx(np.abs(share - default).sum() / 2, abs=1e-12)
    ratios = [one["ratio"] for one in compared["candidates"]]
    assert ratios == sorted(ratios)
    assert {METHODS[method].kind for one in compared["candidates"] for method in one["methods"]} == {
        "weights"
    }


def test_candidates_with_equal_weights_are_merged() -> None:
    compared = compare(
        camvid(num_classes=11, ignore_index=(11,)), methods=["inverse_freq", "median_freq_global"]
    )
    assert [one["names"] for one in compared["candidates"]] == [
        ["uniform"],
        ["sqrt_inv_freq"],
        ["inverse_freq", "median_freq_global"],
    ]


def test_default_betas_are_near_the_median_class() -> None:
    # The median class of CamVid has 2.8 million pixels, of Cityscapes train 53 million.
    for table, expected in (
        (camvid(num_classes=11, ignore_index=(11,)), ["0.9999", "1-1e-5", "1-1e-6", "1-1e-7"]),
        (cityscapes(), ["0.9999", "1-1e-7", "1-1e-8", "1-1e-9"]),
    ):
        reading = {} if table.dataset == "camvid" else {"class_map": "cityscapes"}
        names = named(compare(table, reading, methods=["effective_num"]))
        assert [f"effective_num beta={beta}" for beta in expected] == sorted(
            (name for name in names if name.startswith("effective")), key=lambda name: names[name]["ratio"]
        )
    images = named(compare(camvid(num_classes=11, ignore_index=(11,)), {"unit": "images"}))
    # In images the median class has 349, so beta=0.9999 is past where it turns.
    assert "effective_num beta=1-1e-3 unit=images" in images
    options = compare(camvid(), methods=["effective_num"], betas=["0.9", "auto"])
    assert {"effective_num beta=0.9", "effective_num beta=auto"} <= set(named(options))


def test_methods_that_a_dataset_cannot_support_are_left_out_with_the_reason() -> None:
    compared = compare(TotalsTable({0: 900, 1: 100}, num_classes=2))
    assert [one["names"] for one in compared["left_out"]] == [["median_freq"]]
    assert "in which images" in compared["left_out"][0]["reason"]
    stream = compare(
        camvid(num_classes=11, ignore_index=(11,)), {"sampler": "rare_class"}, betas=["0.9", "0.99"]
    )
    names = ["effective_num beta=0.9", "effective_num beta=0.99", "log_count"]
    assert [name for one in stream["left_out"] for name in one["names"]] == names
    assert stream["stream"]["sampler"] == "rare_class"


def test_every_method_is_compared_at_every_strength() -> None:
    compared = compare(
        camvid(num_classes=11, ignore_index=(11,)),
        methods=["inverse_freq", "effective_num"],
        betas=["1-1e-7"],
        strengths=["0.25", "1"],
    )
    assert [one["names"] for one in compared["candidates"]] == [
        ["uniform"],
        ["sqrt_inv_freq strength=0.25"],
        ["effective_num beta=1-1e-7 strength=0.25"],
        ["inverse_freq strength=0.25"],
        ["sqrt_inv_freq"],
        ["effective_num beta=1-1e-7"],
        ["inverse_freq"],
    ]
    by_name = named(compared)
    assert by_name["inverse_freq strength=0.25"]["ratio"] == pytest.approx(
        by_name["inverse_freq"]["ratio"] ** 0.25
    )
    assert by_name["sqrt_inv_freq"]["moved"]["default"] == 0
    half = compare(camvid(num_classes=11, ignore_index=(11,)), methods=["inverse_freq"], strengths=["0.5"])
    assert [one["names"] for one in half["candidates"]] == [
        ["uniform"],
        ["sqrt_inv_freq strength=0.5"],
        ["sqrt_inv_freq", "inverse_freq strength=0.5"],
    ]
    assert half["candidates"][2]["moved"]["default"] == 0


def test_invalid_arguments_are_rejected() -> None:
    for options, parameter in (
        ({"betas": ["2"]}, "beta"),
        ({"alphas": ["x"]}, "alpha"),
        ({"strengths": ["1.5"]}, "strength"),
        ({"methods": ["pos_weight"]}, "method"),
        ({"methods": ["enett"]}, "method"),
    ):
        with pytest.raises(InvalidParameter) as rejected:
            compare(camvid(), **options)  # type: ignore[arg-type]
        assert rejected.value.errors[0][0] == parameter


def test_tables_fit_many_classes_and_absent_and_ignored_ones(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {c: 10**9 // (c + 1) ** 3 for c in range(60)}
    print_comparison(compare(TotalsTable(counts, num_classes=70, ignore_index=(3,))))
    printed = capsys.readouterr().out
    assert "… 45 more" in printed  # 69 classes, 24 shown
    assert max(map(len, printed.splitlines())) <= 80
    assert "left out: median_freq" in printed


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = homes.resolve(str(tmp_path_factory.mktemp("home")))
    names = ("road", "car", "person", "pole")
    publish(home, "a", label_maps(), num_classes=4, class_names=names)
    publish(
        home, "b", {"x.png": np.tile(np.arange(4, dtype=np.uint8), (4, 4))}, num_classes=4, class_names=names
    )
    return home


def command(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_command_prints_tables_of_methods_and_of_classes(home: Home) -> None:
    printed = statsvc(
        "compare", "a", "--home", home.folder, "--method", "enet", "--method", "inverse_freq"
    ).stdout
    first, second = printed.split("class ")[0], printed.split("class ")[1]
    assert "a · version 1 · 6 images · 4 different weightings" in first
    assert [line.split()[1] for line in first.splitlines() if line[:1].isdigit()] == [
        "uniform", "sqrt_inv_freq", "enet", "inverse_freq",
    ]  # fmt: skip
    share = PIXELS.sum(0) / PIXELS.sum()
    road = next(line for line in second.splitlines() if line.startswith("road")).split()
    assert road == ["road", f"{100 * share[0]:.1f}", f"{100 * share[0]:.1f}", *road[3:5], "25.0"]


def test_the_command_prints_the_same_json_for_a_server(home: Home) -> None:
    here = json.loads(command("compare", "a", "--home", home.folder, "--json").stdout)
    with serving(home) as url:
        there = json.loads(command("compare", "a", "--url", url, "--json").stdout)
        mixed = json.loads(command("compare", "a:0.5,b:0.5", "--url", url, "--json").stdout)
    assert here == there
    assert mixed["dataset"] == "a@1:0.5,b@1:0.5"
    assert mixed == json.loads(command("compare", "a:0.5,b:0.5", "--home", home.folder, "--json").stdout)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_command_writes_a_plot(home: Home, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"compare{suffix}"
    done = command("compare", "a", "--home", home.folder, "-o", file)
    assert done.stdout == ""
    assert done.stderr == f"Plot written to {file}\n"
    if suffix == ".png":
        from PIL import Image

        with Image.open(file) as picture:
            assert picture.width > picture.height > 500
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
    if suffix == ".svg":
        assert file.read_text().startswith("<?xml")


def test_plots_support_many_classes_and_equal_weights(tmp_path: Path) -> None:
    from statsvc.weighting.comparison_plot import save

    counts = {c: 10**9 // (c + 1) ** 3 for c in range(60)}
    save(compare(TotalsTable(counts)), tmp_path / "many.png")
    save(compare(TotalsTable({0: 5})), tmp_path / "one.png")
    save(compare(TotalsTable({0: 5, 1: 5}, num_classes=3)), tmp_path / "equal.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_plot_without_matplotlib_is_rejected_with_the_command_to_install_it(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments: list[str | Path] = ["compare", "a", "--home", home.folder]
    rejected = command(*arguments, "-o", tmp_path / "x.png")
    assert rejected.exit_code == 1
    assert "pip install 'statsvc[plot]'" in rejected.stderr
    assert command(*arguments).exit_code == 0  # tables need none


def test_invalid_command_lines_are_rejected_with_advice(home: Home, tmp_path: Path) -> None:
    for arguments, message in (
        (["-o", tmp_path / "x.jpeg"], "Use a name ending in .png, .svg, .pdf"),
        (["--beta", "1.5"], "--beta: 1.5 is out of range"),
        (["--strength", "0.5,2"], "--strength: 2 is out of range; use a number in [0, 1]"),
        (["--method", "pos_weight"], "--method: pos_weight does not return class weights"),
        (["--temperature", "1"], "--temperature: temperature belongs to sampler=rare_class"),
        (["--sampler", "rare"], "--sampler: expected one of rare_class, repeat_factor"),
    ):
        rejected = command("compare", "a", "--home", home.folder, *arguments)
        assert (rejected.exit_code, rejected.stdout) == (2, "")
        assert message in rejected.stderr
    unwritable = command("compare", "a", "--home", home.folder, "-o", tmp_path / "no" / "x.png")
    assert unwritable.exit_code == 1
    assert "cannot be written: No such file or directory" in unwritable.stderr


def test_the_command_prints_weights_of_streams(home: Home) -> None:
    options = ("--sampler", "rare_class", "--temperature", "0.3", "--min-pixels", "20")
    body = json.loads(statsvc("weights", "a", "--home", home.folder, *options).stdout)
    q = np.array(daformer_probabilities(PIXELS, 0.3, 20))
    share = q @ PIXELS / (q @ PIXELS).sum()
    np.testing.assert_allclose(body["weights"], share**-0.5 / (share**-0.5).mean(), rtol=1e-9)
    with serving(home) as url:
        for name, more in (("a", options), ("a:0.7,b:0.3", options[:2]), ("a@1:0.7,b@1:0.3", ())):
            here = json.loads(command("weights", name, "--home", home.folder, *more).stdout)
            there = json.loads(command("weights", name, "--url", url, *more).stdout)
            assert here == there
    table = command("weights", "a", "--home", home.folder, *options, "--format", "table").stdout
    assert "expected in 6 draws · by rare_class" in table
    assert "seen" in table
    assert "×" in table
    rejected = command("weights", "a:0.7,b:0.3", "--version", "1", "--home", home.folder).stderr
    assert "--version: a mixture has no version of its own" in rejected
    assert "dataset: 'b' has no share" in command("weights", "a:1,b", "--home", home.folder).stderr


def test_clients_can_request_weights_of_streams(home: Home) -> None:
    import statsvc as package

    with serving(home) as url:
        client = package.Client(url)
        drawn = client.weights("a", sampler="rare_class", temperature=0.3, min_pixels=20)
        q = np.array(daformer_probabilities(PIXELS, 0.3, 20))
        share = q @ PIXELS / (q @ PIXELS).sum()
        np.testing.assert_allclose(drawn.to_list(), share**-0.5 / (share**-0.5).mean(), rtol=1e-9)
        mixed = client.weights({"a": 0.7, "b": 0.3})  # type: ignore[arg-type]
        assert mixed.to_dict() == client.weights("a:0.7,b:0.3").to_dict()
        assert mixed.version is None
        # The answer's own dataset and spec pin it.
        assert client.weights(mixed.dataset, **mixed.spec).to_list() == mixed.to_list()
    assert PATHS
