"""Print the tables of docs/reference/weights.md: every method and every recipe, from the code itself.

python scripts/methods_table.py
"""

from __future__ import annotations

from typing import Any

from statsvc.weighting.recipes import RECIPES
from statsvc.weighting.reference import describe_methods


def _parameter(parameter: dict[str, Any]) -> str:
    default = "required" if parameter["required"] else f"default {parameter['default']}"
    return f"`{parameter['name']}`: {parameter['range']}; {default}"


def methods_table() -> str:
    """Return the table of methods as Markdown."""
    lines = ["| method | weight before normalization | parameters | source |", "|---|---|---|---|"]
    for method in describe_methods():
        parameters = "<br>".join(_parameter(parameter) for parameter in method["parameters"])
        lines.append(f"| `{method['name']}` | `{method['formula']}` | {parameters} | {method['reference']} |")
    return "\n".join(lines)


def recipes_table() -> str:
    """Return the table of recipes as Markdown."""
    lines = ["| recipe | parameters | source |", "|---|---|---|"]
    for recipe in RECIPES.values():
        settings = ", ".join(f"`{name}={value}`" for name, value in recipe.settings.items())
        lines.append(f"| `{recipe.name}` | {settings} | {recipe.reference} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(methods_table(), recipes_table(), sep="\n\n")
