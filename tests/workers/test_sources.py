from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from statsvc.errors import AmbiguousSource, SourceError
from statsvc_workers.sources.list_samples import list_samples
from statsvc_workers.sources.listing import Source
from statsvc_workers.sources.sources import open_source
from support import damage
from support.permissions import without_root_privileges

GREY = np.arange(16).reshape(4, 4)
COLOUR = np.zeros((4, 4, 3), np.uint8)


def fill(root: Path, **groups: list[str]) -> None:
    """Write grey=, rgb=, palette= and npy= label maps, and other= files, at these relative paths."""
    content = {
        "grey": damage.png(GREY),
        "rgb": damage.png(COLOUR, color_type=damage.RGB),
        "palette": damage.png(GREY, color_type=damage.PALETTE),
        "npy": damage.npy(GREY),
        "tif": damage.tiff(GREY.astype(np.uint8)),
        "other": b"...",
    }
    for kind, paths in groups.items():
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content[kind])


def listed(root: Path, pattern: str | None = None) -> list[str]:
    return list(list_samples(open_source(str(root), pattern)).path)


def patterns(root: Path) -> dict[str, list[str]]:
    """Return for each pattern that is offered the files that it then lists."""
    with pytest.raises(AmbiguousSource) as caught:
        open_source(str(root), None)
    for pattern in caught.value.patterns:
        assert f"--pattern '{pattern}'" in str(caught.value)
    return {pattern: listed(root, pattern) for pattern in caught.value.patterns}


def names(word: str, count: int = 6, folder: str = "") -> list[str]:
    return [f"{folder}picture{n:03}{word}" for n in range(count)]


def test_a_listing_has_each_files_stat_in_code_point_order(tmp_path: Path) -> None:
    fill(
        tmp_path,
        grey=["b/x.png", "a.png", "a/z.png", "Z.png", "é.png", "b.png", "\U0001f408.png", "\uff5e.png"],
    )
    listing = list_samples(open_source(str(tmp_path), None))
    assert listing.path == sorted(listing.path)
    assert len(listing.path) == 8
    assert listing.size.dtype == listing.mtime_ns.dtype == listing.ctime_ns.dtype == np.int64
    for row, path in enumerate(listing.path):
        status = (tmp_path / path).stat()
        assert (status.st_size, status.st_mtime_ns, status.st_ctime_ns) == (
            listing.size[row],
            listing.mtime_ns[row],
            listing.ctime_ns[row],
        )
    assert listing.unreadable == {}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a.png", "train/b.png", "train/x/c.png"]),
        ("/*.png", ["a.png"]),
        ("train/*.png", ["train/b.png"]),
        ("train/**/*.png", ["train/b.png", "train/x/c.png"]),
        ("**/x/*", ["train/x/c.png"]),
        ("{a,b}.png", ["a.png", "train/b.png"]),
        ("!(a|b).png", ["train/x/c.png"]),
        ("*.{npy,png}", ["a.png", "train/b.png", "train/d.npy", "train/x/c.png"]),
        ("[ab].png", ["a.png", "train/b.png"]),
    ],
)
def test_a_pattern_matches_names_at_any_depth_or_paths_from_the_root(
    tmp_path: Path, pattern: Any, expected: Any
) -> None:
    fill(tmp_path, grey=["a.png", "train/b.png", "train/x/c.png"], npy=["train/d.npy"], other=["readme.txt"])
    assert listed(tmp_path, pattern) == expected


def test_one_file_is_a_source_even_with_glob_characters_in_its_name(tmp_path: Path) -> None:
    fill(tmp_path, grey=["a[1]{x}.png", "a1x.png", "deeper/a[1]{x}.png"])
    source = open_source(str(tmp_path / "a[1]{x}.png"), None)
    assert source.root == str(tmp_path)
    assert list_samples(source).path == ["a[1]{x}.png"]


def test_dot_names_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, grey=["a.png", "._a.png", ".cache/b.png"])
    assert listed(tmp_path) == ["a.png"]


def test_a_relative_location_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, grey=["labels/a.png"])
    monkeypatch.chdir(tmp_path)
    assert open_source("./other/../labels", None).root == str(tmp_path / "labels")


def test_symbolic_links_are_followed_and_loops_are_skipped(tmp_path: Path) -> None:
    fill(tmp_path, grey=["set/a.png", "elsewhere/b.png"])
    root = tmp_path / "set"
    (root / "up").symlink_to(root)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "c.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert listed(root) == ["a.png", "c.png", "linked/b.png"]


def test_a_dangling_link_is_a_sample_that_cannot_be_opened(tmp_path: Path) -> None:
    fill(tmp_path, grey=["a.png"])
    (tmp_path / "b.png").symlink_to("nowhere.png")
    (tmp_path / "c.png").symlink_to("c.png")
    listing = list_samples(open_source(str(tmp_path), None))
    assert listing.path == ["a.png", "b.png", "c.png"]
    assert set(listing.unreadable) == {"b.png", "c.png"}
    assert "symbolic link to nowhere.png" in listing.unreadable["b.png"]


def test_a_pipe_is_a_sample_that_cannot_be_opened(tmp_path: Path) -> None:
    fill(tmp_path, grey=["a.png"])
    os.mkfifo(tmp_path / "b.png")
    listing = list_samples(open_source(str(tmp_path), None))
    assert "pipe" in listing.unreadable["b.png"]


def test_a_file_name_that_is_not_utf8_is_escaped_and_reported(tmp_path: Path) -> None:
    fill(tmp_path, grey=["a.png", r"bad\xff.png"])
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")).write_bytes(damage.png(GREY))
    listing = list_samples(open_source(str(tmp_path), None))
    assert len(listing.path) == 3
    assert listing.path[:2] == ["a.png", r"bad\xff.png"]
    (shown,) = listing.unreadable
    assert shown.startswith(r"bad\xff.png")
    assert "UTF-8" in listing.unreadable[shown]
    assert all(path.encode() for path in listing.path)


def test_a_missing_folder_asks_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone does not exist; is the disk mounted?"):
        open_source(str(tmp_path / "gone"), None)


def test_a_folder_that_went_away_since_fails_the_listing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot be listed.*is the disk mounted"):
        list_samples(Source(str(tmp_path / "gone"), "*.png"))


def test_an_emptied_folder_fails_the_listing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is empty; check the path: is the disk mounted"):
        list_samples(Source(str(tmp_path), "*.png"))


def test_a_folder_that_disappears_during_the_listing_fails_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    fill(tmp_path, grey=[f"part{n}/{m}.png" for n in range(5) for m in range(5)])
    real, calls = os.scandir, []

    def scandir(path: Any) -> Any:
        calls.append(path)
        if len(calls) == 3:
            shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match="no longer exists"):
        list_samples(Source(str(tmp_path), "*.png"))


def test_a_folder_without_permission_fails_the_listing(tmp_path: Path) -> None:
    fill(tmp_path, grey=["a.png", "secret/b.png"])
    (tmp_path / "secret").chmod(0)
    try:
        with without_root_privileges(), pytest.raises(SourceError, match="secret: Permission denied"):
            list_samples(Source(str(tmp_path), "*.png"))
    finally:
        (tmp_path / "secret").chmod(0o700)


def test_an_error_of_the_disk_fails_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, grey=["a.png", "b/c.png"])
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("b"):
            raise OSError(5, "Input/output error", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match=f"{tmp_path} cannot be listed: .*b: Input/output error"):
        list_samples(Source(str(tmp_path), "*.png"))


def test_an_empty_folder_is_rejected(tmp_path: Path) -> None:
    for pattern in (None, "*.png"):
        with pytest.raises(SourceError, match="is empty"):
            open_source(str(tmp_path), pattern)


def test_the_error_for_a_folder_without_label_maps_lists_its_files(tmp_path: Path) -> None:
    fill(tmp_path, other=[*names(".jpg", 142), "readme.txt", "LICENSE"])
    with pytest.raises(SourceError, match=r"142 .jpg files.*JPEG is lossy, so it cannot store labels"):
        open_source(str(tmp_path), None)


def test_the_error_for_a_pattern_without_match_lists_existing_files(tmp_path: Path) -> None:
    fill(tmp_path, grey=names(".png", 9))
    message = r"'\*_ids.png'; its files are, for example: picture000.png, picture001.png, picture002.png$"
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path), "*_ids.png")
    with pytest.raises(SourceError, match=r"no file .* matches the pattern '\*_ids.png'"):
        list_samples(Source(str(tmp_path), "*_ids.png"))


@pytest.mark.parametrize("pattern", ["", "/", "{" + "{a,b}" * 12 + "}.png"])
def test_an_invalid_pattern_is_rejected(tmp_path: Path, pattern: Any) -> None:
    fill(tmp_path, grey=["a.png"])
    with pytest.raises(SourceError, match="pattern"):
        open_source(str(tmp_path), pattern)


def test_cityscapes_kinds_are_distinguished_by_suffix(tmp_path: Path) -> None:
    stems = [f"gtFine/train/aachen/aachen_{n:06}_000019_gtFine" for n in range(4)]
    fill(
        tmp_path,
        grey=[f"{stem}_{word}.png" for stem in stems for word in ("labelIds", "instanceIds")],
        rgb=[f"{stem}_color.png" for stem in stems],
        other=[f"{stem}_polygons.json" for stem in stems],
    )
    found = patterns(tmp_path)
    assert set(found) == {"*_color.png", "*_instanceIds.png", "*_labelIds.png"}
    for pattern, paths in found.items():
        assert paths == [f"{stem}{pattern[1:]}" for stem in stems]


def test_one_image_with_several_suffixes_is_ambiguous(tmp_path: Path) -> None:
    fill(tmp_path, grey=["a_labelIds.png", "a_instanceIds.png"])
    assert set(patterns(tmp_path)) == {"*_labelIds.png", "*_instanceIds.png"}


def test_images_next_to_their_masks_are_distinguished(tmp_path: Path) -> None:
    fill(tmp_path, rgb=names(".png"), grey=names("_L.png"))
    assert patterns(tmp_path) == {"*_L.png": names("_L.png"), "!(*_L).png": names(".png")}


def test_suffixes_that_do_not_recur_for_the_same_image_do_not_form_kinds(tmp_path: Path) -> None:
    fill(tmp_path, grey=["cat_big.png", "dog_small.png", "cow.png"])
    assert listed(tmp_path) == ["cat_big.png", "cow.png", "dog_small.png"]


def test_frame_numbers_do_not_form_kinds(tmp_path: Path) -> None:
    paths = [f"0006R0_f{n:05}.png" for n in range(930, 960)] + [f"Seq05VD_f{n:05}.png" for n in range(30)]
    fill(tmp_path, grey=paths)
    assert listed(tmp_path) == sorted(paths)


def skipped(root: Path) -> list[str]:
    """Return the patterns of the files that are skipped where one kind of label map is chosen."""
    selection = open_source(str(root), None).selection
    assert selection is not None
    return [group.pattern for group in selection.skipped]


def test_images_next_to_labels_are_skipped(tmp_path: Path) -> None:
    fill(tmp_path, rgb=names(".png", 6, "images/"), grey=names(".png", 5, "labels/"))
    source = open_source(str(tmp_path), None)
    assert source.pattern == "labels/**/*.png"
    assert source.selection is not None
    (counted,), (images,) = source.selection.counted, source.selection.skipped
    assert (counted.files, counted.role, counted.example) == (5, "labels", "labels/picture000.png")
    assert counted.content.startswith("8-bit gray, values 0 to 15")
    assert (images.pattern, images.files, images.role) == ("images/**/*.png", 6, "images")
    assert listed(tmp_path, images.pattern) == names(".png", 6, "images/")


def test_images_below_splits_are_skipped(tmp_path: Path) -> None:
    images = [path for split in ("train", "val") for path in names(".png", 3, f"{split}/images/")]
    labels = [path for split in ("train", "val") for path in names(".png", 3, f"{split}/labels/deep/")]
    fill(tmp_path, rgb=images, palette=labels)
    assert listed(tmp_path) == labels
    assert [listed(tmp_path, pattern) for pattern in skipped(tmp_path)] == [images]


def test_colors_at_the_root_and_labels_below_are_distinguished(tmp_path: Path) -> None:
    fill(tmp_path, rgb=names(".png"), grey=names(".png", 6, "labels/"))
    assert sorted(patterns(tmp_path).values()) == sorted([names(".png"), names(".png", 6, "labels/")])


def test_images_with_another_suffix_in_the_same_folder_are_skipped(tmp_path: Path) -> None:
    images, labels = names("_leftImg8bit.png"), names("_gtFine_labelIds.png")
    fill(tmp_path, rgb=images, grey=labels)
    assert listed(tmp_path) == labels
    assert skipped(tmp_path) == ["*_leftImg8bit.png"]


def test_one_color_file_among_label_maps_is_a_bad_sample_not_a_kind(tmp_path: Path) -> None:
    fill(tmp_path, grey=names(".png", 11), rgb=["picture0000.png"])
    assert len(listed(tmp_path)) == 12


def test_a_few_damaged_files_do_not_change_the_detected_kinds(tmp_path: Path) -> None:
    fill(tmp_path, grey=names(".png"), rgb=names(".png", 6, "images/"))
    (tmp_path / "picture000.png").write_bytes(b"")
    (tmp_path / "images" / "picture001.png").write_bytes(b"text")
    assert listed(tmp_path) == names(".png")


def test_train_and_val_folders_of_one_kind_are_one_dataset(tmp_path: Path) -> None:
    fill(tmp_path, grey=names(".png", 3, "train/"), palette=names(".png", 3, "val/"))
    source = open_source(str(tmp_path), None)
    assert source.pattern == "*.png"
    assert len(list_samples(source).path) == 6


def test_the_same_images_with_two_extensions_are_two_kinds(tmp_path: Path) -> None:
    fill(tmp_path, grey=names(".png"), npy=names(".npy"))
    assert patterns(tmp_path) == {"*.npy": names(".npy"), "*.png": names(".png")}


def test_different_images_with_another_extension_are_the_same_kind(tmp_path: Path) -> None:
    fill(tmp_path, grey=["a.png", "b.PNG"], npy=["c.npy"], tif=["d.tif", "e.tiff"])
    source = open_source(str(tmp_path), None)
    assert source.pattern == "*.{PNG,npy,png,tif,tiff}"
    assert len(list_samples(source).path) == 5


def test_a_folder_of_color_images_is_one_kind_whose_samples_fail(tmp_path: Path) -> None:
    fill(tmp_path, rgb=names(".png"))
    assert open_source(str(tmp_path), None).pattern == "*.png"


def test_detection_reads_few_headers_where_each_image_has_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statsvc_workers.sources import content, inspection

    fill(tmp_path, grey=[f"case{n:04}/label.png" for n in range(600)])
    seen: list[str] = []

    def counted_header(root: str, path: str) -> Any:
        seen.append(path)
        return content.header(root, path)

    monkeypatch.setattr(inspection, "header", counted_header)
    assert len(listed(tmp_path)) == 600
    assert len(seen) <= 2 * inspection.FOLDERS


def test_camvid_is_one_kind() -> None:
    root = Path(__file__).parents[3] / "shared" / "data" / "camvid"
    if not root.is_dir():
        pytest.skip("the real CamVid label maps are not available next to the clone")
    listing = list_samples(open_source(str(root), None))
    assert len(listing.path) == 367 + 101
    assert listing.unreadable == {}


def test_very_many_paths_are_listed_as_few_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "a/é.png", "a/z.png", "a-b.png", "ä.png", "𝄞.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    few = list_samples(Source(str(tmp_path), "*.png"))
    monkeypatch.setattr("statsvc_workers.sources.listing.MAX_LIST_PATHS", 0)
    many = list_samples(Source(str(tmp_path), "*.png"))
    assert isinstance(many.path, np.ndarray)
    assert many.path.tolist() == few.path == sorted(few.path)
    for name in ("size", "mtime_ns", "ctime_ns"):
        assert getattr(many, name).tolist() == getattr(few, name).tolist()
