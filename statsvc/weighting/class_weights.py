"""The class that holds a weights response in a training program."""

from __future__ import annotations

import hashlib
import math
import operator
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from statsvc.common.plain_values import plain
from statsvc.common.plurals import plural
from statsvc.errors import InvalidParameter, NotFound, nearest
from statsvc.weighting.origins import PROVENANCE, remember

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_USE = {
    "additive": "add them to the logits in the training loss",
    "pos_weight": "pass them to BCEWithLogitsLoss as pos_weight",
}


_KEYS = ("dataset", "version", "method", "kind", "spec", "exact", "classes", "weights", "warnings")


def checked_answer(body: Any) -> dict[str, Any]:
    """Return a response that `ClassWeights` can hold. Raises `LookupError` or `TypeError` for others."""
    for key in _KEYS:
        if key not in body:
            raise LookupError(f"{key!r} is missing")
    weights = body["weights"]
    if len(weights) != len(body["classes"]) or not all(_is_number(weight) for weight in weights):
        raise TypeError("weights does not contain one finite number for each class")
    return dict(body)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_MAX_DIFFERENCES = 6
"""Number of differing classes that a message names."""


class ClassWeights:
    """A weights response: the weight of each class, and the data and settings that it is based on.

    dataset, version, method, kind, spec, exact, classes and warnings are fields of the response. Instances
    can be pickled. For checkpoints, use `to_dict()`, which `torch.load(weights_only=True)` can read, and
    `from_dict`.
    """

    def __init__(self, response: dict[str, Any]) -> None:
        self._answer = response
        self.dataset: str = response["dataset"]
        self.version: int | None = response["version"]
        self.method: str = response["method"]
        self.kind: str = response["kind"]
        self.spec: dict[str, Any] = response["spec"]
        self.exact: bool = response["exact"]
        self.classes: list[dict[str, Any]] = response["classes"]
        self.warnings: list[dict[str, str]] = response["warnings"]

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> ClassWeights:
        """Return the weights that `to_dict` was called on, for example from a checkpoint.

        Raises `InvalidParameter` for any other record.
        """
        try:
            return cls(checked_answer(record))
        except (LookupError, TypeError) as problem:
            raise InvalidParameter(
                ("record", f"the record was not returned by ClassWeights.to_dict(): {problem}")
            ) from None

    @property
    def provenance(self) -> dict[str, Any]:
        """What the weights are based on: dataset, version, method, kind, exact and spec."""
        return {name: self._answer[name] for name in PROVENANCE}

    @property
    def digest(self) -> str:
        """16 hexadecimal digits; two digests are equal if and only if the float64 weights are."""
        return hashlib.sha256(np.array(self._answer["weights"], "<f8").tobytes()).hexdigest()[:16]

    def require_classes(self, expected: Sequence[str]) -> None:
        """Raise `InvalidParameter` with the differences unless `expected` are the class names in order."""
        if isinstance(expected, str):
            raise InvalidParameter(("expect_classes", f"{expected!r} is a string; use a list of names"))
        names = [row["name"] for row in self.classes]
        differences = [
            f"class {class_id} is {name!r}, not {expected_name!r}"
            for class_id, (name, expected_name) in enumerate(zip(names, expected, strict=False))
            if name != expected_name
        ]
        if len(names) != len(expected):
            differences.insert(0, f"the dataset has {plural(len(names), 'class')}, not {len(expected)}")
        if not differences:
            return
        if len(differences) > _MAX_DIFFERENCES:
            differences[_MAX_DIFFERENCES:] = [f"and {len(differences) - _MAX_DIFFERENCES} more"]
        if sorted(names) == sorted(expected):
            hint = "the names are the same but in another order; reorder the labels of the training program"
        elif names == [str(row["id"]) for row in self.classes]:
            hint = "the dataset has no class names; set them with statsvc scan --class-names"
        else:
            hint = "check whether the training program uses another class_map or another dataset"
        raise InvalidParameter(("expect_classes", f"{self.dataset}: {'; '.join(differences)}; {hint}"))

    def warn_if_not_weights(self) -> None:
        """Emit a `UserWarning` where the vector must not be the `weight` of a loss."""
        if self.kind != "weights":
            warnings.warn(
                f"{self.method} returns {self.kind} instead of class weights; {_USE[self.kind]}",
                UserWarning,
                stacklevel=3,
            )

    def tensor(self, device: torch.device | str | int | None = None) -> torch.Tensor:
        """Return the weights as a float32 tensor of shape [C] on `device`.

        Raises `ImportError` where PyTorch is not installed.
        """
        try:
            import torch
        except ImportError:
            raise ImportError(
                "PyTorch is not installed. Run: pip install 'statsvc[torch]', or use .numpy()"
            ) from None
        tensor = torch.tensor(self.to_list(), dtype=torch.float32, device=device)
        remember(self.to_list(), self.provenance, tensor)
        return tensor

    def numpy(self) -> NDArray[np.float32]:
        """Return the weights as a float32 array of shape [C]."""
        remember(self.to_list(), self.provenance)
        return np.array(self._answer["weights"], np.float32)

    def weights_at(self, epoch: float, *, start: float, end: float | None = None) -> NDArray[np.float32]:
        """Return the weights of an epoch as a float32 array of shape [C]: weak at first, later these weights.

        epoch  number of the epoch, counted from 0; fractions are allowed
        start  first epoch in which the weights have an effect
        end    epoch from which they have their full effect, linear in the exponent; by default `start`, which
               is deferred re-weighting (Cao et al., NeurIPS 2019)

        Raises `InvalidParameter` for a number that is not finite, and an `end` before `start`.
        """
        from statsvc.weighting.schedule import strength_at, weights_at_strength

        return weights_at_strength(self._answer, strength_at(plain(epoch), plain(start), plain(end))).astype(
            np.float32
        )

    def to_list(self) -> list[float]:
        """Return the weights in float64 as a list of length C."""
        return list(self._answer["weights"])

    def to_dict(self) -> dict[str, Any]:
        """Return the complete response of `GET /weights`."""
        return self._answer

    def to_log(self, prefix: str = "class_weights/") -> dict[str, float | int | str | bool]:
        """Return scalars for an experiment tracker: the weight of each class, and the data they are based on.

        Keys are `prefix` and the class name, followed by `_` and the class id where several classes share the
        name; those of the data have `_` after the prefix.
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

    def __getitem__(self, class_: str | int) -> float:
        """Return the weight of a class, by its name or by its id.

        Raises `NotFound` for an unknown name, `InvalidParameter` for a name that several classes share, and
        `IndexError` for an id without a weight.
        """
        if isinstance(class_, str):
            names = [row["name"] for row in self.classes]
            if class_ not in names:
                raise NotFound(f"{self.dataset} has no class {class_!r}{nearest(class_, names)}")
            if names.count(class_) > 1:
                raise InvalidParameter(("class", f"several classes are named {class_!r}; use a class id"))
            return self.to_list()[names.index(class_)]
        class_id = operator.index(class_)
        if not 0 <= class_id < len(self):
            raise IndexError(f"class id {class_id} is not in 0 … {len(self) - 1}")
        return self.to_list()[class_id]

    def __iter__(self) -> Iterator[float]:
        return iter(self.to_list())

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same response: equal weights, classes, data and settings."""
        return self._answer == other._answer if isinstance(other, ClassWeights) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def _repr_html_(self) -> str:
        """Return a table with a bar for each class, for notebooks."""
        from statsvc.weighting.display import weights_html

        return weights_html(repr(self), self.classes, self.to_list(), self.warnings)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw a bar for the weight of each class, and return the axes; by default those of a new figure.

        Raises `ImportError` without matplotlib.
        """
        from statsvc.weighting.comparison_plot import bars

        return bars([row["name"] for row in self.classes], self.to_list(), repr(self), ax)

    def __repr__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        exact = "" if self.exact else ", estimated"
        return (
            f"<ClassWeights of {self.dataset}{version}: {self.method}, {plural(len(self), 'class')}{exact}>"
        )
