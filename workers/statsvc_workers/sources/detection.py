"""Detect the kinds of file in a folder from their names, headers and a part of their pixels.

Many datasets store several files per image: `x_color.png`, `x_instanceIds.png` and `x_labelIds.png` in one
folder, `imagesTr/x.nii.gz` and `labelsTr/x.nii.gz`, `volume-0.nii` and `segmentation-0.nii`, or `x.npy` and
`x.png`. Counting them together would be wrong, so each is a separate kind with its own pattern. `splitting`
separates files by

1. a suffix, if the same images occur with another suffix: `cat_big.png` and `dog_small.png` are one kind;
2. a prefix with a role, such as `mask_`, if the same images occur with another prefix;
3. a numbered word, such as `2class` or `rater1`;
4. the role of their folder, such as `labels`, and sibling folders with the same images;
5. the extension, if the same images occur with another extension;
6. what they contain: folders, prefixes or extensions of photographs, and others of label maps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from msgspec import Struct

from statsvc.common.utf8 import printable
from statsvc.dataset.counting_rule import Counting
from statsvc.dataset.selection import FileGroup
from statsvc_workers.formats import FORMATS, extension
from statsvc_workers.sources.content import Look
from statsvc_workers.sources.file_names import LAST_WORD, NamedFile, name_role, named_files, numbered_variant
from statsvc_workers.sources.grouping import escaped, pattern_of_group
from statsvc_workers.sources.inspection import Inspection
from statsvc_workers.sources.pairing import MANY_VARIANTS
from statsvc_workers.sources.roles import Role, folder_role, has_outer_labels, role_of
from statsvc_workers.sources.splitting import Splitting

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PHOTOS = {".jpg", ".jpeg"}
"""Extensions of images that never contain labels, and are reported as skipped."""


class FileKind(Struct, frozen=True):
    """One kind of file.

    image   whether its files are images (photographs, scans), which are never counted
    photo   whether its pixels show that
    binary  whether the inspected files have no values but 0, 1 and 255, at most two in a file
    notes   what is uncertain about the files
    """

    group: FileGroup
    image: bool = False
    photo: bool = False
    binary: bool = False
    notes: tuple[str, ...] = ()

    @property
    def pattern(self) -> str:
        """The pattern that matches its files."""
        return self.group.pattern


def candidates(paths: Iterable[str]) -> list[str]:
    """Return the paths with the extension of a label map format."""
    return [path for path in paths if extension(path) in FORMATS]


def kinds(
    root: str, paths: Sequence[str], counting: Counting | None = None, names: Iterable[str] = ()
) -> list[FileKind]:
    """Return the kinds of file among `paths` (at least one candidate), largest first.

    counting  the rule and the name of the array by which the files would be counted
    names     paths of all files of the source; images among them show which label maps belong to one image
    """
    files = named_files(paths)
    inspection = Inspection(root, counting or Counting())
    photos = [path for path in names if extension(path) in PHOTOS]
    photos += [file.path for file in files if _role(file, name_role(file)) is Role.IMAGES]
    splitting = Splitting(inspection, photos)
    groups = splitting.split(files)
    groups.sort(key=lambda group: (-len(group), group[0].path))
    roles = [name_role(group[0]) for group in groups]
    if len(set(roles)) == 1:
        roles = [None] * len(groups)  # names such as image_001.png distinguish nothing
    return [
        _kind(group, role, files, inspection, splitting.joined)
        for group, role in zip(groups, roles, strict=True)
    ]


def _role(file: NamedFile, role_of_name: Role | None) -> Role | None:
    """Return the role of a file by its folder and its name."""
    role = folder_role(file.folder)[0]
    if role is Role.IMAGES and role_of_name is not None and has_outer_labels(file.folder):
        return role_of_name
    return role or role_of_name


def photo_files(paths: Iterable[str]) -> list[FileGroup]:
    """Return the files of lossy formats, which are images, as skipped groups."""
    by_extension: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if extension(path) in PHOTOS:
            by_extension[path[path.rindex(".") :]].append(path)
    return [
        FileGroup(f"*{ending}", len(found), Role.IMAGES.value, "JPEG", printable(min(found)))
        for ending, found in sorted(by_extension.items())
    ]


def _kind(
    files: list[NamedFile],
    role_of_name: Role | None,
    everything: list[NamedFile],
    inspection: Inspection,
    joined: Sequence[tuple[str, str, str]],
) -> FileKind:
    role = _role(files[0], role_of_name)
    found = inspection.of(files)
    looks = Counter(content.look for content in found)
    photo = 2 * looks[Look.PHOTO] > len(found) > 0
    fractions = 2 * looks[Look.FRACTIONS] > len(found) > 0
    image = photo or fractions or role is Role.IMAGES
    if photo and role is None:
        role = Role.IMAGES
    paths = [file.path for file in files]
    pattern = pattern_of_group(paths, [file.path for file in everything], _name_globs(files, everything))
    text = inspection.describe(files, found)
    group = FileGroup(pattern, len(files), role.value if role else None, text, printable(min(paths)))
    inside = set(paths)
    notes = dict.fromkeys(note for first, second, note in joined if {first, second} <= inside)
    return FileKind(group, image, photo, inspection.are_binary(files), tuple(notes))


def _name_globs(files: Sequence[NamedFile], everything: Sequence[NamedFile]) -> list[str]:
    """Return globs of the file names, the simplest first; not every one is right for every group."""
    extensions = sorted({file.extension.removeprefix(".") for file in files})
    ending = "." + (extensions[0] if len(extensions) == 1 else "{" + ",".join(extensions) + "}")
    suffixes = {file.suffix for file in files}
    globs = [f"*{ending}"]
    if len(suffixes) == 1 and (suffix := next(iter(suffixes))):
        globs.insert(0, f"*{suffix}{ending}")
        if last := LAST_WORD.search(suffix):
            globs.insert(0, f"*{last.group()}{ending}")
    others = sorted({file.suffix for file in everything} - suffixes - {""})
    if others and len(others) <= MANY_VARIANTS:
        globs.append("!(" + "|".join(f"*{other}" for other in others) + ")" + ending)
    variants = {numbered_variant(file.stem)[1] for file in files}
    if len(variants) == 1 and (variant := next(iter(variants))):
        globs += [f"*{variant}{ending}", f"*{variant}*{ending}"]
    stems = {file.stem for file in files}
    if len(stems) == 1:
        globs.append(f"{escaped(stems.pop())}{ending}")
    prefixes = {file.prefix for file in files if file.prefix}
    if len(prefixes) == 1 and (prefix := next(iter(prefixes))):
        globs.append(f"{prefix}*{ending}")
    other_prefixes = {file.prefix for file in everything if file.prefix} - prefixes
    known = sorted(prefix for prefix in other_prefixes if role_of(prefix) is not None)
    if known and len(known) <= MANY_VARIANTS:
        globs.append("!(" + "|".join(f"{prefix}*" for prefix in known) + ")" + ending)
    return globs
