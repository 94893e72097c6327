"""Class weights as a trainer gets them."""

from __future__ import annotations

import hashlib
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

_USE = {
    "additive": "add them to the logits in the training loss",
    "pos_weight": "give them to BCEWithLogitsLoss as pos_weight",
}


_KEYS = ("dataset", "version", "method", "kind", "spec", "exact", "classes", "weights", "warnings")


def checked_answer(body: Any) -> dict[str, Any]:
    """Return an answer that has what `ClassWeights` needs. Raises `LookupError` or `TypeError` for others."""
    for key in _KEYS:
        if key not in body:
            raise LookupError(f"{key!r} is missing")
    weights = body["weights"]
    if len(weights) != len(body["classes"]) or not all(_is_number(weight) for weight in weights):
        raise TypeError("the weights are not one number for each class")
    return dict(body)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_SHOWN = 6
"""How many differences a message names."""


class ClassWeights:
    """An answer of statsvc: a weight for each class, and what they rest on.

    dataset, version, method, kind, spec, exact, classes and warnings are the answer's. Pickles; for a
    checkpoint take `to_dict()`, which `torch.load(weights_only=True)` reads, and `from_dict`.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer
        self.dataset: str = answer["dataset"]
        self.version: int | None = answer["version"]
        self.method: str = answer["method"]
        self.kind: str = answer["kind"]
        self.spec: dict[str, Any] = answer["spec"]
        self.exact: bool = answer["exact"]
        self.classes: list[dict[str, Any]] = answer["classes"]
        self.warnings: list[dict[str, str]] = answer["warnings"]

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> ClassWeights:
        """Return the weights that `to_dict` gave, for instance to a checkpoint.

        Raises `InvalidParameter` where the record is none.
        """
        try:
            return cls(checked_answer(record))
        except (LookupError, TypeError) as problem:
            raise InvalidParameter(
                ("record", f"this is not what ClassWeights.to_dict() gave: {problem}")
            ) from None

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that are equal exactly where the weights are, in float64."""
        return hashlib.sha256(np.array(self._answer["weights"], "<f8").tobytes()).hexdigest()[:16]

    def require_classes(self, expected: Sequence[str]) -> None:
        """Raise `InvalidParameter`, naming what differs, unless `expected` are the class names in order."""
        if isinstance(expected, str):
            raise InvalidParameter(("expect_classes", f"{expected!r} is one text; give a list of names"))
        names = [row["name"] for row in self.classes]
        wrong = [
            f"class {class_id} is {there!r}, not {wanted!r}"
            for class_id, (there, wanted) in enumerate(zip(names, expected, strict=False))
            if there != wanted
        ]
        if len(names) != len(expected):
            wrong.insert(0, f"there are {len(names)} classes, not {len(expected)}")
        if not wrong:
            return
        if len(wrong) > _SHOWN:
            wrong[_SHOWN:] = [f"and {len(wrong) - _SHOWN} more"]
        if sorted(names) == sorted(expected):
            hint = "the names are the same in another order: put the trainer's labels in the dataset's"
        elif names == [str(row["id"]) for row in self.classes]:
            hint = "the dataset has no class names; give them with statsvc scan --class-names"
        else:
            hint = "does the trainer use another class map (class_map=), or another dataset?"
        raise InvalidParameter(("expect_classes", f"{self.dataset}: {'; '.join(wrong)}; {hint}"))

    def warn_if_not_weights(self) -> None:
        """Warn where the vector must not be a loss's `weight`: what is added to logits can be negative."""
        if self.kind != "weights":
            warnings.warn(
                f"{self.method} gives no class weights but {self.kind}: {_USE[self.kind]}",
                UserWarning,
                stacklevel=3,
            )

    def tensor(self, device: torch.device | str | int | None = None) -> torch.Tensor:
        """Return the weights as a float32 tensor of shape [C] on `device`.

        Raises `ImportError` where Torch is not installed.
        """
        try:
            import torch
        except ImportError:
            raise ImportError(
                "a tensor needs PyTorch: pip install 'statsvc[torch]', or take .numpy()"
            ) from None
        return torch.tensor(self.to_list(), dtype=torch.float32, device=device)

    def numpy(self) -> NDArray[np.float32]:
        """Return the weights as a float32 array of shape [C]."""
        return np.array(self._answer["weights"], np.float32)

    def to_list(self) -> list[float]:
        """Return the weights in float64 as a list of length C."""
        return list(self._answer["weights"])

    def to_dict(self) -> dict[str, Any]:
        """Return the whole answer, as `GET /weights` gives it."""
        return self._answer

    def to_log(self, prefix: str = "class_weights/") -> dict[str, float | int | str | bool]:
        """Return a flat dict of scalars for an experiment tracker: each class's weight, and their origin.

        Where two classes share a name, the id is put after it.
        """
        names = [row["name"] for row in self.classes]
        log: dict[str, float | int | str | bool] = {
            f"{prefix}{row['name']}" + (f"_{row['id']}" if names.count(row["name"]) > 1 else ""): row[
                "weight"
            ]
            for row in self.classes
        }
        origin = {
            "dataset": self.dataset,
            "version": self.version,
            "method": self.method,
            "exact": self.exact,
            "pixels": self._answer["pixels"],
            "images": self._answer["images"],
            "failed": self._answer["failed"],
            "expected_weight": self._answer["expected_weight"],
        }
        log |= {f"{prefix}_{key}": value for key, value in origin.items() if value is not None}
        return log

    def __len__(self) -> int:
        return len(self._answer["weights"])

    def __repr__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        exact = "" if self.exact else ", estimated"
        return f"<ClassWeights of {self.dataset}{version}: {self.method}, {len(self)} classes{exact}>"
