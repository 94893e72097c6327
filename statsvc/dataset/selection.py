"""Which files of a source are counted, which are skipped, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping


class FileGroup(Struct, frozen=True):
    """Files of one kind.

    pattern  glob that matches these files and no others of the source
    files    number of files when the source was inspected
    role     "labels", "images", "instances", …; None if neither names nor content show it
    content  what the files contain, such as "8-bit gray, 3 ids per file, from 0 to 20"
    example  path of one of the files
    """

    pattern: str
    files: int
    role: str | None
    content: str
    example: str

    def __str__(self) -> str:
        role = f"{self.role}; " if self.role else ""
        count = f"{self.files} {'file' if self.files == 1 else 'files'}"
        return f"{count}, {role}{self.content}; for example {self.example}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` parses."""
        return {
            "pattern": self.pattern,
            "files": self.files,
            "role": self.role,
            "content": self.content,
            "example": self.example,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FileGroup:
        """Parse the JSON form that `to_dict` returns."""
        return cls(**{name: value[name] for name in ("pattern", "files", "role", "content", "example")})


class Selection(Struct, frozen=True):
    """What was found at a source when the dataset was registered.

    counted  the files that are counted; empty if the source was not inspected
    skipped  files of other kinds
    layout   name of the known layout of the folder, or None
    notes    what else a reader of the counts should know
    """

    counted: tuple[FileGroup, ...] = ()
    skipped: tuple[FileGroup, ...] = ()
    layout: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def inspected(self) -> bool:
        """Whether the source was inspected; before that, only what its user says is known."""
        return bool(self.counted)

    def lines(self) -> list[str]:
        """Return the selection as text, one line per group."""
        lines = [f"layout: {self.layout}"] if self.layout else []
        lines += [f"counted: {quoted(group.pattern)} ({group})" for group in self.counted]
        lines += [f"skipped: {quoted(group.pattern)} ({group})" for group in self.skipped]
        return lines + [f"note: {note}" for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which `from_dict` parses."""
        return {
            "layout": self.layout,
            "counted": [group.to_dict() for group in self.counted],
            "skipped": [group.to_dict() for group in self.skipped],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Selection:
        """Parse the JSON form that `to_dict` returns."""
        counted, skipped = (
            tuple(FileGroup.from_dict(group) for group in value[name]) for name in ("counted", "skipped")
        )
        return cls(counted, skipped, value["layout"], tuple(value["notes"]))


TRUSTED_NOTE = "the rule `value` was given: the values are class ids"


def declared(layout: str | None, *, trusted: bool) -> Selection | None:
    """Return what is known of a source before it is inspected: its layout, and whether its values are ids."""
    if layout is None and not trusted:
        return None
    return Selection(layout=layout, notes=(TRUSTED_NOTE,) if trusted else ())


def quoted(text: str) -> str:
    """Return a text in single quotes, which sh, bash, zsh and PowerShell pass on unchanged.

    These shells escape a single quote differently, so patterns contain none.
    """
    return f"'{text}'"
