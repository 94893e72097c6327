"""Regular expressions whose search time is linear in the length of the text, whatever the expression.

Expressions come from users, and Python's `re` needs exponential time for some of them, such as `(a+)+b`.
This module parses with `re`, so the syntax is the same, and then follows all alternatives in order of
priority, but visits each combination of instruction and position only once. Lookaround and references to
groups are rejected, because they cannot be matched in linear time. Expressions in which `re` cannot backtrack
far are left to it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from re import _constants as sre  # type: ignore[attr-defined]  # the parser of `re` has no public name
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH = 500
"""Longest expression."""

MAX_INSTRUCTIONS = 2000
"""Largest number of instructions; a counted repetition such as `a{50}` is unrolled."""

_UNSUPPORTED = {
    "ASSERT": "lookaround",
    "ASSERT_NOT": "lookaround",
    "GROUPREF": "references to groups",
    "GROUPREF_EXISTS": "references to groups",
    "ATOMIC_GROUP": "atomic groups",
    "POSSESSIVE_REPEAT": "possessive repetition",
}

_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    sre.CATEGORY_DIGIT: str.isdecimal,
    sre.CATEGORY_NOT_DIGIT: lambda letter: not letter.isdecimal(),
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda letter: not letter.isspace(),
    sre.CATEGORY_WORD: lambda letter: letter.isalnum() or letter == "_",
    sre.CATEGORY_NOT_WORD: lambda letter: not (letter.isalnum() or letter == "_"),
}


class LinearPattern:
    """A compiled expression.

    Raises `ValueError` with the reason if the expression is malformed, too long or not supported.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAX_LENGTH:
            raise ValueError(f"the expression is longer than {MAX_LENGTH} characters")
        try:
            parsed = sre_parser.parse(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{text!r} is not a regular expression: {error}") from error
        if parsed.state.flags & ~re.UNICODE:
            raise ValueError(f"{text!r} sets flags, which are not supported")
        self._groups = parsed.state.groups
        self._program = _Program()
        self._program.add(parsed)
        self._program.emit("match")
        self._simple = re.compile(text) if _is_simple(parsed) else None

    def value(self, text: str) -> str | None:
        """Return the first group of the first match, or the whole match without groups.

        None without a match, or if the group takes no part in it.
        """
        if self._simple is not None:
            match = self._simple.search(text)
            return None if match is None else match.group(1 if self._groups > 1 else 0)
        start, end = self._search(text, 1 if self._groups > 1 else 0)
        return None if start is None or end is None else text[start:end]

    def _search(self, text: str, group: int) -> tuple[int | None, int | None]:
        visited: set[tuple[int, int]] = set()
        for start in range(len(text) + 1):
            if (found := self._match(text, start, group, visited)) is not None:
                return found
        return None, None

    def _match(
        self, text: str, start: int, group: int, visited: set[tuple[int, int]]
    ) -> tuple[int | None, int | None] | None:
        """Return the bounds of a group of the match that begins at `start`.

        `visited` is shared by all starts: what failed from an instruction and a position fails again.
        """
        code = self._program.code
        stack: list[tuple[int, int, int | None, int | None]] = [(0, start, None, None)]
        while stack:
            at, position, low, high = stack.pop()
            while (at, position) not in visited:
                visited.add((at, position))
                kind, first, second = code[at]
                if kind == "match":
                    return (start, position) if group == 0 else (low, high)
                if kind == "letter":
                    if position == len(text) or not first(text[position]):
                        break
                    position += 1
                elif kind == "fork":
                    stack.append((second, position, low, high))
                    at = first
                    continue
                elif kind == "jump":
                    at = first
                    continue
                elif kind == "open":
                    low = position if first == group else low
                elif kind == "close":
                    high = position if first == group else high
                elif not first(text, position):
                    break
                at += 1
        return None


@dataclass
class _Program:
    """Instructions (kind, argument, argument) of a matcher; arguments of `fork` and `jump` are positions."""

    code: list[tuple[str, Any, Any]] = field(default_factory=list)

    def emit(self, kind: str, first: Any = None, second: Any = None) -> int:
        if len(self.code) == MAX_INSTRUCTIONS:
            raise ValueError("the expression is too large; use smaller numbers of repetitions")
        self.code.append((kind, first, second))
        return len(self.code) - 1

    def add(self, items: Any) -> None:
        for operation, argument in items:
            if operation is sre.SUBPATTERN:
                self._add_group(argument)
            elif operation is sre.BRANCH:
                self._add_branches(argument[1])
            elif operation in (sre.MAX_REPEAT, sre.MIN_REPEAT):
                self._add_repeat(*argument, lazy=operation is sre.MIN_REPEAT)
            elif operation is sre.AT:
                self.emit("at", _boundary(argument))
            else:
                self.emit("letter", _letters(operation, argument))

    def _add_group(self, argument: Any) -> None:
        number, added, removed, items = argument
        if added or removed:
            raise ValueError("flags inside an expression are not supported")
        if number is not None:
            self.emit("open", number)
        self.add(items)
        if number is not None:
            self.emit("close", number)

    def _add_branches(self, branches: Any) -> None:
        jumps = []
        for branch in branches[:-1]:
            fork = self.emit("fork")
            self.add(branch)
            jumps.append(self.emit("jump"))
            self.code[fork] = ("fork", fork + 1, len(self.code))
        self.add(branches[-1])
        for jump in jumps:
            self.code[jump] = ("jump", len(self.code), None)

    def _add_repeat(self, least: int, most: Any, items: Any, *, lazy: bool) -> None:
        if most is sre.MAXREPEAT and items.getwidth()[0] == 0:
            raise ValueError("what is repeated can be empty; write for instance a* instead of (a*)*")
        for _ in range(least):
            self.add(items)
        forks = []
        if most is sre.MAXREPEAT:
            fork = self.emit("fork")
            self.add(items)
            self.emit("jump", fork)
            forks.append(fork)
        else:
            for _ in range(most - least):
                forks.append(self.emit("fork"))
                self.add(items)
        for fork in forks:
            targets = (fork + 1, len(self.code))
            self.code[fork] = ("fork", *(targets[::-1] if lazy else targets))


def _letters(operation: Any, argument: Any) -> Callable[[str], bool]:
    """Return whether a letter matches, as a function that remembers its results."""
    if operation is sre.LITERAL:
        return chr(argument).__eq__
    if operation is sre.NOT_LITERAL:
        return chr(argument).__ne__
    if operation is sre.ANY:
        return "\n".__ne__
    if operation is sre.IN:
        negated = argument[0][0] is sre.NEGATE
        tests = [_member(*item) for item in argument[negated:]]

        def matches(letter: str) -> bool:
            return any(test(letter) for test in tests) != negated

        return functools.lru_cache(maxsize=512)(matches)
    name = _UNSUPPORTED.get(str(operation), str(operation).lower())
    raise ValueError(f"{name} cannot be matched in linear time; write the expression without it")


def _member(operation: Any, argument: Any) -> Callable[[str], bool]:
    if operation is sre.LITERAL:
        return chr(argument).__eq__
    if operation is sre.RANGE:
        low, high = argument
        return lambda letter: low <= ord(letter) <= high
    return _CATEGORIES[argument]


def _boundary(argument: Any) -> Callable[[str, int], bool]:
    """Return whether an anchor matches at a position of a text."""
    if argument in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
        return lambda _, position: position == 0
    if argument is sre.AT_END_STRING:
        return lambda text, position: position == len(text)
    if argument is sre.AT_END:
        return lambda text, position: text[position:] in ("", "\n")
    word = _CATEGORIES[sre.CATEGORY_WORD]

    def at_boundary(text: str, position: int) -> bool:
        before = position > 0 and word(text[position - 1])
        after = position < len(text) and word(text[position])
        return (before != after) == (argument is sre.AT_BOUNDARY)

    return at_boundary


def _is_simple(parsed: Any) -> bool:
    """Return whether `re` needs linear time: anchored at the start, with at most one repetition or choice."""
    items = list(parsed)
    if (
        not items
        or items[0][0] is not sre.AT
        or items[0][1] not in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING)
    ):
        return False
    return _choices(items) <= 1


def _choices(items: Any) -> int:
    total = 0
    for operation, argument in items:
        if operation is sre.SUBPATTERN:
            total += _choices(argument[3])
        elif operation is sre.BRANCH:
            total += 2
        elif operation in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, repeated = argument
            # Repetitions of a fixed number of letters leave no choice.
            total += 1 if least != most else 0
            total += 2 * _choices(repeated)
    return total
