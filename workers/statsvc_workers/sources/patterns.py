"""Patterns that select the files of a source."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from statsvc.common.globs import FOLDERS, Automaton, Token, check_groups, check_length, is_fast
from statsvc.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ALTERNATIVES = 1000
"""Most globs to which the braces of a pattern expand."""

_ENDING = re.compile(r"\*[\w.-]{1,99}")
"""A pattern of names that end in a text, such as `*_labelIds.png`."""

_GROUP_START = re.compile(r"(?<!\\)[!@?]\(")
_TOKEN = re.compile(r"\\.|\[[!^]?\]?[^\]]*\]|\*+|.", re.DOTALL)


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that returns whether a relative path matches. Raises `SourceError`."""
    if not pattern.strip("/"):
        raise SourceError(f"the pattern {pattern!r} cannot match a file; use one such as '*_labelIds.png'")
    if _ENDING.fullmatch(pattern):
        return partial(_ends_with, pattern[1:])
    return _general_matcher(pattern)


def _ends_with(ending: str, path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith(ending) and not name.startswith(".")  # no wildcard matches the dot of a hidden file


def _general_matcher(pattern: str) -> Callable[[str], bool]:
    # Imported here, because most patterns are only the ending of a name.
    import bracex
    from wcmatch import glob

    flags = glob.GLOBSTAR | glob.EXTGLOB | glob.FORCEUNIX
    match_whole_path = "/" in pattern
    try:
        check_length("pattern", pattern)
        check_groups("pattern", pattern)
        globs = bracex.expand(pattern.lstrip("/"), keep_escapes=True, limit=MAX_ALTERNATIVES)
        # Groups were checked above. One expression for all, because it is evaluated for each file.
        quick = [text for text in globs if is_fast(text) or _GROUP_START.search(text)]
        expressions, _ = glob.translate(quick, flags=flags)
        fullmatch = re.compile("|".join(f"(?:{text})" for text in expressions) or r"(?!)").fullmatch
        automata = [Automaton(_tokens(text)) for text in globs if text not in quick]
    except Exception as error:
        raise SourceError(
            f"the pattern {pattern!r} is not a valid glob: {error}; --help describes the syntax"
        ) from error

    def matches(path: str) -> bool:
        text = path if match_whole_path else path.rpartition("/")[2]
        return fullmatch(text) is not None or any(automaton.matches(text) for automaton in automata)

    return matches


def _tokens(text: str) -> list[Token]:
    """Return the tokens of a glob without braces and groups."""
    tokens: list[Token] = []
    components = text.split("/")
    for number, component in enumerate(components):
        is_last = number == len(components) - 1
        if component == "**":
            tokens += [Token("many", ".")] if is_last else FOLDERS
            continue
        for part in _TOKEN.findall(component):
            if part.startswith("*"):
                tokens.append(Token("many", "[^/]"))
            elif part == "?":
                tokens.append(Token("one", "[^/]"))
            elif part.startswith("[") and len(part) > 1:
                tokens.append(Token("one", f"(?!/){part.replace('[!', '[^', 1)}"))
            else:
                tokens.append(Token("one", re.escape(part.removeprefix("\\") or part)))
        if not is_last:
            tokens.append(Token("one", "/"))
    return tokens


def may_be_folder_of(pattern: str, path: str) -> bool:
    """Whether a link of unknown target may be a folder that contains paths that match."""
    if "." in path.rpartition("/")[2]:
        return False  # by its extension, it is a link to a file
    literal = []
    for part in pattern.lstrip("/").split("/")[:-1] if "/" in pattern else ():
        if not re.fullmatch(r"[\w .-]+", part):
            break
        literal.append(part)
    return all(a == b for a, b in zip(literal, path.split("/"), strict=False))


def pattern_of(name: str) -> str:
    """Return the pattern that matches only the file of this name directly below the root."""
    from wcmatch import glob

    return "/" + glob.escape(name, unix=True)
