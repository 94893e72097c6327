"""Globs whose matching time is linear in the length of the path.

A glob with several wildcards, as a regular expression of `re`, takes time that grows with a power of the
length of a path, and nothing can interrupt it. Globs can come from a request, so they are matched here by a
finite automaton instead, whose states are built as they are needed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from statsvc.errors import Inapplicable, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_GLOB = 1000
"""Most characters of a glob."""

MAX_STARS = 2
"""Most `*` in one path component for which `re` is fast enough; it is faster than the automaton."""

MAX_GROUPED_STARS = 3
"""Most wildcards of a path component that contains a group such as `!(a|b)`."""

MAX_TRANSITIONS = 1 << 16
"""Cached transitions of an automaton; beyond them the cache is cleared."""

_GROUP = re.compile(r"(?<!\\)([!@?])\(((?:[^()\\]|\\.)*)\)", re.DOTALL)
_GROUP_START = re.compile(r"(?<!\\)[!@?*+]\(")


class Token(Struct, frozen=True):
    """A part of a glob.

    kind      one: a single character; many: any number of characters; line: at least one character, the
              last of which is "/"; optional: whether the next token is used or skipped
    accepted  regular expression of an accepted character
    """

    kind: Literal["one", "many", "line", "optional"]
    accepted: str = ""


FOLDERS = (Token("optional"), Token("line", "."))
"""Nothing, or any text that ends in "/": `**/`."""


def check_length(parameter: str, glob: str) -> None:
    """Raise `InvalidParameter` for a glob that is too long."""
    if len(glob) > MAX_GLOB:
        raise InvalidParameter(
            (parameter, f"the glob has {len(glob)} characters, more than the limit of {MAX_GLOB}")
        )


def is_fast(glob: str) -> bool:
    """Whether `re` matches a glob of `*`, `**`, `?` and `[…]` fast, however long the path is."""
    return glob.count("**") <= 1 and all(part.count("*") <= MAX_STARS for part in glob.split("/"))


def check_groups(parameter: str, glob: str) -> None:
    """Check the groups `!(a|b)`, `@(a|b)` and `?(a|b)` of a glob, which only `re` can match.

    Raises `InvalidParameter` for repeated and nested groups, and for too many wildcards next to a group.
    """
    outside = _GROUP.sub("", glob)
    if _GROUP_START.search(outside):
        raise Inapplicable(
            (
                parameter,
                f"{glob!r} contains a repeated or nested group; use {{a,b}}, or !(a|b) without another group "
                "inside",
            )
        )
    if not _GROUP_START.search(glob):
        return
    cost = _GROUP.sub(lambda match: "*" * _wildcards(match[1], match[2].split("|")), glob)
    if cost.count("**/") > 1 or any(part.count("*") > MAX_GROUPED_STARS for part in cost.split("/")):
        raise Inapplicable(
            (parameter, f"{glob!r} has too many wildcards next to a group; use fewer, or {{a,b}}")
        )


def _wildcards(kind: str, alternatives: Sequence[str]) -> int:
    """Return the wildcards that a group counts as: those of an alternative, and one for several lengths."""
    several_lengths = kind in "!?" or len(set(map(len, alternatives))) > 1
    return several_lengths + max(part.count("*") for part in alternatives)


class Automaton:
    """Matches whole texts against tokens. Thread-safe: a transition is the same whichever thread adds it."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._accepts = [re.compile(token.accepted).fullmatch for token in tokens]
        # A state is a set of positions, as bits: position p means that the tokens before p have matched.
        self._start, self._final = self._closed(1), 1 << len(tokens)
        self._table: dict[tuple[int, str], int] = {}

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        state, table = self._start, self._table
        for letter in text:
            following = table.get((state, letter))
            if following is None:
                following = self._step(state, letter)
                if len(table) >= MAX_TRANSITIONS:
                    table.clear()
                table[state, letter] = following
            if not following:
                return False
            state = following
        return bool(state & self._final)

    def _step(self, state: int, letter: str) -> int:
        following = 0
        for position, token in enumerate(self._tokens):
            if not state >> position & 1:
                continue
            if token.kind == "line" and letter == "/":
                following |= 1 << position + 1
            if self._accepts[position](letter):
                following |= 1 << (position + 1 if token.kind == "one" else position)
        return self._closed(following)

    def _closed(self, state: int) -> int:
        """Return a state with the positions that follow tokens which may match nothing."""
        for position, token in enumerate(self._tokens):
            if state >> position & 1 and token.kind in ("many", "optional"):
                state |= 1 << position + 1
                if token.kind == "optional":
                    state |= 1 << position + 2
        return state
