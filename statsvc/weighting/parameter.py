"""One entry of the parameter table, and its forms in help texts, OpenAPI and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from statsvc.weighting.value_types import Choice, Number, clean_text

if TYPE_CHECKING:
    from statsvc.weighting.methods import Method
    from statsvc.weighting.value_types import ValueType

Scope = Literal["all", "counts", "class_weights", "factors", "stream", "crop"]

_SCOPE_KINDS = {"class_weights": ("weights",), "factors": ("weights", "pos_weight")}


class Parameter(Struct, frozen=True):
    """One parameter of a `WeightSpec`.

    type        how a value is parsed, and its JSON schema
    scope       what the parameter applies to:
                "all"            every spec
                "counts"         every spec; it selects and interprets the counts, whatever they are used for
                "class_weights"  methods that return class weights, see `Method.kind`
                "factors"        methods whose values multiply a loss: class weights and pos_weight
                "stream"         specs with a sampler
                "crop"           specs with a crop
    default     value in a resolved spec where the caller leaves the parameter out; None leaves the choice
                to the dataset
    required    True where the parameter's method has no default for it
    method      the only method that takes the parameter; None for all methods
    sampler     the only sampler that takes the parameter; None for all samplers
    too         a sampler that takes the parameter of a method, too, and its default there; None for none
    repeatable  True where repeating the parameter adds values
    aliases     other names
    comparable  True where `statsvc compare` applies one value to all methods
    """

    name: str
    description: str
    type: ValueType
    scope: Scope = "all"
    default: Any = None
    required: bool = False
    method: str | None = None
    sampler: str | None = None
    too: tuple[str, Any] | None = None
    repeatable: bool = False
    aliases: tuple[str, ...] = ()
    comparable: bool = False

    def parse(self, value: Any) -> Any:
        """Return the canonical value of text or a Python value. Raises `ValueError`."""
        return self.type.parse(clean_text(value))

    def applies(self, method: Method, sampler: str | None, crop: tuple[int, int] | None) -> bool:
        """Return whether a spec with this method, sampler and crop has the parameter."""
        if self.scope == "crop":
            return crop is not None
        if self.method is not None:
            return self.method == method.name or self.suits_sampler(sampler)
        if self.scope == "stream":
            return sampler is not None and self.sampler in (None, sampler)
        return self.suits(method)

    def suits(self, method: Method) -> bool:
        """Return whether the scope includes what the method returns."""
        return method.kind in _SCOPE_KINDS.get(self.scope, (method.kind,))

    def suits_sampler(self, sampler: str | None) -> bool:
        """Return whether the parameter is one of a sampler."""
        return sampler is not None and sampler in (self.sampler, self.too and self.too[0])

    def default_for(self, sampler: str | None) -> Any:
        """Return the default in a spec with this sampler."""
        return self.too[1] if self.too is not None and self.suits_sampler(sampler) else self.default

    @property
    def owner(self) -> str:
        """The only method or sampler that takes the parameter, as `method=power`; empty for others."""
        if self.method is not None:
            return f"method={self.method}" + (f" or sampler={self.too[0]}" if self.too else "")
        return "" if self.sampler is None else f"sampler={self.sampler}"

    def help(self) -> str:
        """Return the help text of the command-line option."""
        notes = [self.owner] if self.owner else []
        if isinstance(self.type, Number):
            notes.append(f"range: {self.type.range}")
        if self.required:
            notes.append("required")
        elif self.default is not None:
            notes.append(f"default: {self.type.to_json(self.default)}")
        bracket = f"  [{'; '.join(notes)}]" if notes else ""
        listing = isinstance(self.type, Choice) and not self.type.metavar_lists_choices
        choices = f": {self.type.range}" if listing else ""
        return f"{self.description}{choices}.{bracket}"

    def documentation(self) -> str:
        """Return the description of the query parameter."""
        return f"{self.description}." + (f" Only with {self.owner}." if self.owner else "")

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the query parameter."""
        default = {} if self.default is None else {"default": self.type.to_json(self.default)}
        return {**self.type.schema(), **default}

    def to_dict(self, sampler: str | None = None) -> dict[str, Any]:
        """Return the JSON form, for `GET /methods` and, of a sampler, for `GET /samplers`."""
        default = self.default_for(sampler)
        return {
            "name": self.name,
            "default": None if default is None else self.type.to_json(default),
            "required": self.required,
            "range": self.type.range,
            "description": self.description,
        }
