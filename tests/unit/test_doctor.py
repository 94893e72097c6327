"""Each fault that a test introduces causes exactly one kind of finding; correct label maps cause none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient

from statsvc.api.app import build_app
from statsvc.classes import class_maps
from statsvc.classes.palettes import BUILTIN, find
from statsvc.cli import cli
from statsvc.dataset.splits import Split
from statsvc.doctor.report import examine
from statsvc.local.demo import make_demo, street_scene
from statsvc.sampling.weights import weights_response
from statsvc.store import home as homes
from statsvc.weighting.parameters import WeightSpec
from support.doctor_tables import report, streets, table_with_files
from support.small_tables import TotalsTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    Labels = np.ndarray[Any, Any]

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"


def weights(maps: Mapping[str, Labels], **spec: Any) -> list[float]:
    """Return what `GET /weights` answers about these label maps."""
    table, _ = table_with_files(maps)
    return weights_response(table, WeightSpec(absent="zero", **spec))["weights"]  # type: ignore[no-any-return]


def test_correct_label_maps_cause_no_findings() -> None:
    assert report(streets()) == {}
    assert report(streets(classes=19)) == {}
    assert report(streets(images=3)) == {}


def test_unexpected_ids_are_reported_with_files_pixels_and_the_weight_as_a_class() -> None:
    maps = streets()
    maps["train/004.png"][3:9, :4] = 7
    findings = report(maps, num_classes=5)
    assert list(findings) == ["unexpected_ids"]
    finding = findings["unexpected_ids"]
    assert (finding["level"], finding["files"], finding["ids"]) == ("serious", ["train/004.png"], [7])
    assert "24 pixels" in finding["saw"]
    # The weight is that of a class: the two ids in between have no pixels, so they change nothing.
    after = weights(maps, num_classes=8)
    assert f"weight {after[7]:.3g}" in finding["saw"]
    k = finding["moves"]["class"]
    assert finding["moves"]["weight"] == pytest.approx(weights(maps, num_classes=5)[k])
    assert finding["moves"]["mended"] == pytest.approx(after[k])


def test_masks_of_0_and_255_are_found_unless_a_class_map_maps_255() -> None:
    rng = np.random.default_rng(1)
    maps = {f"{n}.png": np.where(rng.random((16, 16)) < 0.3, 255, 0) for n in range(6)}
    finding = report(maps)["binary_masks"]
    assert (finding["level"], finding["count"], len(finding["files"])) == ("serious", 6, 5)
    assert f"{sum(int((m == 255).sum()) for m in maps.values()):,} pixels" in finding["saw"]
    assert "--class-map binary" in finding["do"]
    assert report(maps, class_map=class_maps.builtin("binary"), num_classes=2) == {}


def test_a_mask_among_label_maps_is_found_but_not_if_255_means_void() -> None:
    maps = streets()
    for labels in maps.values():
        labels[labels == 255] = 0
    maps["train/000.png"] = np.where(maps["train/000.png"] > 1, 255, 0)
    assert report(maps)["binary_masks"]["files"] == ["train/000.png"]
    void = streets()
    void["train/000.png"] = np.where(void["train/000.png"] > 1, 255, 0)
    assert "binary_masks" not in report(void)


def test_interpolated_masks_are_found_but_not_nearest_neighbor_ones() -> None:
    drawn = {}
    for n in range(8):
        y, x = np.mgrid[:256, :256]
        mask = 255 * (np.hypot(y - 100 - n, x - 120) < 60 + n)
        drawn[f"{n}.png"] = mask.astype(np.uint8)
    clean = report(drawn)
    assert set(clean) == {"binary_masks"}
    small = {
        path: np.asarray(Image.fromarray(labels).resize((100, 90), Image.Resampling.BILINEAR)).astype(int)
        for path, labels in drawn.items()
    }
    finding = report(small)["interpolated"]
    assert (finding["level"], finding["count"]) == ("serious", 8)
    assert "unexpected_ids" not in report(small)
    sharp = {
        path: np.asarray(Image.fromarray(labels).resize((100, 90), Image.Resampling.NEAREST)).astype(int)
        for path, labels in drawn.items()
    }
    assert set(report(sharp)) == {"binary_masks"}


@pytest.mark.parametrize("size", [(128, 64), (300, 150)])
def test_blended_edges_between_class_ids_are_found_in_pixels(
    size: tuple[int, int],
) -> None:
    scenes = {f"train/{n:02}.png": street_scene(n, (256, 128), 0) for n in range(12)}
    without_void = {path: np.where(scene == 255, 0, scene).astype(np.uint8) for path, scene in scenes.items()}
    for maps in (scenes, without_void):
        for how, codes in ((Image.Resampling.NEAREST, []), (Image.Resampling.BILINEAR, ["blended_edges"])):
            resized = {
                path: np.asarray(Image.fromarray(scene).resize(size, how)).astype(np.int64)
                for path, scene in maps.items()
            }
            table, files = table_with_files(resized)
            body = examine(table, files.__getattribute__, lambda path: [resized[path]])  # noqa: B023
            assert [finding["code"] for finding in body["findings"]] == codes
            assert body["looked_at"] == 8


def test_colors_converted_to_grayscale_are_recognized_by_their_palette() -> None:
    voc = find("voc", files=False)
    assert voc is not None
    assert "voc" in BUILTIN
    colors = np.array([color[:3] for color in voc.colors[:6]], np.uint8)
    rng = np.random.default_rng(2)
    maps = {}
    for n in range(6):
        picture = colors[rng.integers(0, 6, (20, 20))]
        maps[f"{n}.png"] = np.asarray(Image.fromarray(picture).convert("L")).astype(int)
    finding = report(maps)["greyed_colours"]
    assert (finding["level"], finding["count"]) == ("serious", 6)
    assert "voc" in finding["saw"]
    assert "greyed_colours" not in report(streets())


def test_color_coded_and_damaged_files_are_separate_findings() -> None:
    failed = {
        "train/x.png": "is colour-coded (PNG, RGB, 8 bit): statsvc counts class ids, one channel",
        "train/y.png": "ends early; copy or export it again from where it came",
    }
    findings = report(streets(), failed=failed)
    assert findings["colours"]["files"] == ["train/x.png"]
    assert findings["unreadable"]["files"] == ["train/y.png"]
    assert "ends early" in findings["unreadable"]["saw"]


def test_palette_images_with_other_ids_than_gray_images_are_found() -> None:
    maps = streets()
    odd = ["train/000.png", "train/001.png"]
    for path in odd:
        maps[path] = np.where(maps[path] < 255, maps[path] + 20, 255)
    finding = report(maps, modes=dict.fromkeys(odd, 2))["pixel_types"]
    assert finding["files"] == odd
    assert "20, 21, 22, 23, 24" in finding["saw"]
    assert report(streets(), modes=dict.fromkeys(odd, 2)) == {}


def test_two_ids_for_void_are_a_notice() -> None:
    maps = streets()
    maps["val/003.png"][5, :7] = -1
    finding = report(maps)["two_voids"]
    assert (finding["level"], finding["moves"]) == ("notice", None)
    assert finding["files"][0] == "val/003.png"
    assert "7 pixels" in finding["saw"]


@pytest.mark.parametrize(("dtype", "number"), [(np.uint16, 65535), (np.uint32, 2**32 - 1)])
def test_minus_one_in_an_unsigned_type_is_recognized(dtype: Any, number: int) -> None:
    maps = streets()
    maps["train/000.png"][2] = -1
    written = {path: labels.astype(dtype).astype(np.int64) for path, labels in maps.items()}
    findings = report(written)
    assert set(findings) == {"wrong_sign"}
    assert str(number) in findings["wrong_sign"]["saw"]
    assert findings["wrong_sign"]["files"] == ["train/000.png"]


def test_minus_100_is_the_default_ignore_index_of_torch_and_not_reported() -> None:
    assert report({path: np.where(labels == 255, -100, labels) for path, labels in streets().items()}) == {}


def test_unsigned_bytes_read_as_signed_are_recognized() -> None:
    maps = {path: np.where(labels == 4, 200, labels) for path, labels in streets().items()}
    read = {path: labels.astype(np.uint8).view(np.int8).astype(np.int64) for path, labels in maps.items()}
    finding = report(read)["wrong_sign"]
    assert "-56 is 200" in finding["saw"]


@pytest.mark.parametrize("order", [">u2", ">u4"])
def test_a_swapped_byte_order_is_recognized_and_corrected_in_the_weights(order: str) -> None:
    maps = streets()
    wrong = dict(maps)
    for path in ("train/000.png", "val/003.png"):
        little = maps[path].astype(order.replace(">", "<"))
        wrong[path] = np.where(maps[path] == 255, 255, little.view(order).astype(np.int64))
        wrong[path][0] = 0
    finding = report(wrong, num_classes=5)["swapped_bytes"]
    assert (finding["count"], finding["files"]) == (2, ["train/000.png", "val/003.png"])
    assert "1, 2, 3, 4" in finding["saw"]
    corrected = {path: np.where(maps[path] == 255, wrong[path], maps[path]) for path in maps}
    k = finding["moves"]["class"]
    assert finding["moves"]["mended"] == pytest.approx(weights(corrected, num_classes=5)[k])


def test_classes_absent_from_a_split_are_reported() -> None:
    maps = streets()
    for path, labels in maps.items():
        if path.startswith("train"):
            labels[labels == 4] = 0
    finding = report(maps, num_classes=5, class_names=("a", "b", "c", "d", "bicycle"))["absent_from_split"]
    assert (finding["level"], finding["ids"]) == ("serious", [4])
    assert "train: bicycle" in finding["saw"]
    assert finding["files"][0].startswith("val/")
    assert (finding["moves"]["name"], finding["moves"]["weight"]) == ("bicycle", 0.0)


def test_files_of_odd_size_are_reported_and_rotated_ones_counted() -> None:
    maps = streets()
    maps["train/000.png"] = maps["train/000.png"].T
    maps["train/001.png"] = maps["train/001.png"][:10]
    finding = report(maps)["odd_sizes"]
    assert (finding["level"], finding["count"]) == ("notice", 2)
    assert "rotated" in finding["saw"]
    k = finding["moves"]["class"]
    rest = {path: labels for path, labels in maps.items() if path not in finding["files"]}
    assert finding["moves"]["mended"] == pytest.approx(weights(rest)[k])
    varied = {path: labels[: 10 + n % 14] for n, (path, labels) in enumerate(maps.items())}
    assert "odd_sizes" not in report(varied)


def test_copies_within_a_split_and_across_splits_are_different_findings() -> None:
    maps = streets()
    maps["train/copy.png"] = maps["train/000.png"]
    findings = report(maps)
    assert set(findings) == {"duplicates"}
    finding = findings["duplicates"]
    assert (finding["level"], finding["files"]) == ("notice", ["train/copy.png"])
    k = finding["moves"]["class"]
    assert finding["moves"]["mended"] == pytest.approx(weights(streets())[k])
    maps = streets()
    maps["val/copy.png"] = maps["train/000.png"]
    findings = report(maps)
    assert set(findings) == {"leakage"}
    assert findings["leakage"]["level"] == "serious"
    assert set(findings["leakage"]["files"]) == {"train/000.png", "val/copy.png"}
    k = findings["leakage"]["moves"]["class"]
    assert findings["leakage"]["moves"]["mended"] == pytest.approx(weights(streets())[k])


def test_empty_label_maps_do_not_count_as_copies() -> None:
    maps = streets()
    for name in ("train/empty1.png", "train/empty2.png", "val/empty3.png"):
        maps[name] = np.zeros((24, 32), np.int64)
    assert set(report(maps)) == {"empty"}


def test_leakage_names_the_training_split_first_and_counts_all_files() -> None:
    maps = streets()
    leaked = sorted(maps)[:7]
    splits = {"val": Split(paths=frozenset(leaked)), "train": Split(paths=frozenset(maps))}
    finding = report(maps, splits=splits)["leakage"]
    assert (finding["count"], len(finding["files"])) == (7, 5)
    assert "in both train and val" in finding["saw"]
    assert "and 4 more" in finding["saw"]
    assert finding["do"] == "Remove them from train."


@pytest.mark.parametrize("spelling", ["color", "colour"])
def test_errors_of_color_coded_files_are_recognized_in_versions_of_every_release(spelling: str) -> None:
    failed = {"train/x.png": f"is {spelling}-coded (PNG, RGB, 8 bit)"}
    assert list(report(streets(), failed=failed)) == ["colours"]


def test_different_folds_can_share_samples_but_splits_of_one_fold_cannot() -> None:
    maps, paths = streets(), sorted(streets())
    splits = {
        "fold0_train": Split(paths=frozenset(paths[:30])),
        "fold0_val": Split(paths=frozenset(paths[30:])),
        "fold1_train": Split(paths=frozenset(paths[10:])),
        "fold1_val": Split(paths=frozenset(paths[:10])),
    }
    assert report(maps, splits=splits) == {}
    splits["fold1_val"] = Split(paths=frozenset(paths[:11]))
    finding = report(maps, splits=splits)["leakage"]
    assert (finding["count"], finding["files"]) == (1, [paths[10]])
    assert "fold1_train" in finding["saw"]


def test_a_class_with_most_pixels_in_one_file_is_reported() -> None:
    maps = streets()
    for path, labels in maps.items():
        if path != "train/002.png":
            labels[labels == 4] = 0
    findings = report(maps, num_classes=5)
    finding = findings["hangs_on_one_file"]
    assert (finding["level"], finding["files"], finding["ids"]) == ("notice", ["train/002.png"], [4])
    without = {path: labels for path, labels in maps.items() if path != "train/002.png"}
    assert finding["moves"]["weight"] == pytest.approx(weights(maps, num_classes=5)[4])
    assert finding["moves"]["mended"] == weights(without, num_classes=5)[4] == 0.0


def test_the_report_on_an_estimate_says_which_part_of_the_label_maps_it_is_based_on() -> None:
    maps = streets(images=30)
    for sampled_from, topics in (
        (None, []),
        (30_000, ["29,970 of 30,000 label maps: this version is an estimate"]),
    ):
        table, files = table_with_files(maps)
        table.sampled_from = sampled_from
        body = examine(table, files.__getattribute__, lambda path: [maps[path]])
        assert [topic.partition(" from ")[0] for topic in body["not_examined"]] == topics


def test_imported_totals_are_examined_for_unexpected_ids() -> None:
    body = examine(TotalsTable({0: 10, 1: 5, 9: 3}, num_classes=2), None)
    assert [finding["code"] for finding in body["findings"]] == ["unexpected_ids"]
    assert "contains totals only" in body["not_examined"][0]


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout


def test_the_command_and_the_service_report_the_same_findings_about_files_on_disk(tmp_path: Path) -> None:
    folder, home = make_demo(tmp_path / "demo", images=30, size=(96, 64)), tmp_path / "home"
    run("scan", folder, "--name", "demo", "--workers", "1", "--home", home)
    assert "no problems found" in run("doctor", "demo", "--home", home)
    first = min((folder / "train").iterdir())
    (folder / "val" / "leaked.png").write_bytes(first.read_bytes())
    labels = np.asarray(Image.open(first))
    swapped = Image.fromarray((labels.astype(np.uint16) % 255 << 8).astype(np.uint16))
    swapped.save(folder / "train" / "swapped.png")
    Image.fromarray(np.stack([labels, labels // 2, labels], axis=2)).save(folder / "train" / "rgb.png")
    run("scan", "--name", "demo", "--workers", "1", "--home", home, code=1)
    body = json.loads(run("doctor", "demo", "--json", "--home", home, code=1))
    findings = {finding["code"]: finding for finding in body["findings"]}
    assert set(findings) == {"leakage", "swapped_bytes", "colours"}
    assert "val/leaked.png" in findings["leakage"]["files"]
    assert findings["swapped_bytes"]["files"] == ["train/swapped.png"]
    assert findings["colours"]["files"] == ["train/rgb.png"]
    printed = run("doctor", "--home", home, code=1)
    assert "3 serious" in printed
    assert "train/swapped.png" in printed
    with TestClient(build_app(homes.resolve(str(home))), base_url="http://127.0.0.1") as client:
        response = client.get("/datasets/demo/doctor")
        served = response.json()
        assert {"looked_at", "not_examined"} == {key for key in body if served[key] != body[key]}
        assert (served["looked_at"], body["looked_at"], body["not_examined"]) == (0, 8, [])
        etag = response.headers["etag"]
        assert client.get("/datasets/demo/doctor", headers={"If-None-Match": etag}).status_code == 304
        older = client.get("/datasets/demo/doctor?version=1")
        assert older.json()["findings"] == []
        assert "immutable" in older.headers["cache-control"]
        assert client.get("/datasets/demo/doctor?verson=1").status_code == 422
        assert client.get("/datasets/none/doctor").status_code == 404


@pytest.mark.skipif(not CAMVID.exists(), reason="needs the CamVid label maps in ../shared/data")
def test_camvid_causes_no_findings(tmp_path: Path) -> None:
    run("scan", CAMVID, "--name", "camvid", "--workers", "1", "--home", tmp_path)
    body = json.loads(run("doctor", "camvid", "--json", "--home", tmp_path))
    assert (body["images"], body["findings"]) == (468, [])
