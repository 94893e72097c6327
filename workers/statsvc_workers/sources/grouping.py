"""Make the simplest pattern that matches a group of files, and no other file of the source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wcmatch import glob

from statsvc.common.globs import MAX_GLOB
from statsvc_workers.sources.patterns import matcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_FOLDERS = 500
"""Most folders that a pattern lists; wcmatch expands at most 1000 alternatives."""

UNSAFE = re.compile(r"[^\w./+=%#@&$^~-]")
"""Characters that a glob or a shell could interpret; `?` matches any of them."""


def pattern_of_group(members: Sequence[str], everything: Sequence[str], name_globs: Sequence[str]) -> str:
    """Return a pattern that matches all `members` and no other path of `everything`.

    name_globs  globs of file names; at least one of them matches the names of all members
    """
    inside = set(members)
    others = [path for path in everything if path not in inside]
    # One path of each folder first: it rejects most patterns.
    first = {path.rpartition("/")[0]: path for path in others}
    others = [*first.values(), *others]
    matching = ""
    for pattern in _patterns(members, others, name_globs):
        if len(pattern) > MAX_GLOB:
            continue
        matches = matcher(pattern)
        if all(matches(path) for path in members):
            if not any(matches(path) for path in others):
                return pattern
            matching = matching or pattern
    # Only where nothing that a glob can express distinguishes two groups.
    listed = "{" + ",".join(escaped(path) for path in sorted(members)) + ",/}"
    if len(members) > MOST_FOLDERS or len(listed) > MAX_GLOB:
        return matching or name_globs[-1]
    return listed


def escaped(text: str) -> str:
    """Return a glob of a text without any character that a shell could interpret in single quotes."""
    return UNSAFE.sub("?", text)


def _patterns(members: Sequence[str], others: Sequence[str], name_globs: Sequence[str]) -> Iterator[str]:
    """Yield patterns, the simplest first."""
    yield from name_globs
    folders = sorted({path.rpartition("/")[0] for path in members})
    parts = [folder.split("/") for folder in folders]
    other_parts = {part for path in others for part in path.split("/")[:-1]}
    common = set.intersection(*(set(names) for names in parts)) - other_parts - {""}
    # The outermost folder name: images/…, or train/images/… and val/images/….
    for part in sorted(common, key=lambda part: (parts[0].index(part), part)):
        at_top = all(names[0] == part for names in parts)
        for name in name_globs:
            yield f"{escaped(part)}/**/{name}" if at_top else f"**/{escaped(part)}/**/{name}"
    distinct = [sorted(set(names) - other_parts - {""}, key=names.index) for names in parts]
    if all(distinct) and len(alternatives := sorted({names[0] for names in distinct})) <= MOST_FOLDERS:
        at_top = all(names[0] in alternatives for names in parts)
        listed = ",".join(escaped(part) for part in alternatives)
        for name in name_globs if len(alternatives) > 1 else ():
            yield f"{{{listed}}}/**/{name}" if at_top else f"**/{{{listed}}}/**/{name}"
    if len(folders) <= MOST_FOLDERS:
        for quote in (escaped, _with_backslashes):
            for name in name_globs:
                yield _in_folders([quote(folder) for folder in folders], name)


def _in_folders(folders: Sequence[str], name: str) -> str:
    if len(folders) == 1:
        return f"{folders[0]}/{name}"  # for the root itself, a pattern with a leading "/"
    return "{" + ",".join(f"{folder}/{name}" if folder else name for folder in folders) + "}"


def _with_backslashes(text: str) -> str:
    escaped_text: str = glob.escape(text, unix=True)
    return escaped_text
