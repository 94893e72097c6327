"""Print pip constraints for the oldest version of each dependency that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

DEVELOPMENT_EXTRAS = {"bench", "dev", "docs", "integrations"}

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
requirements = list(project["dependencies"])
for extra, requirements_of_extra in project["optional-dependencies"].items():
    if extra not in DEVELOPMENT_EXTRAS:
        requirements += requirements_of_extra
lowest = {}
for requirement in requirements:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9.]+).*", requirement)
    if match is not None:
        lowest[match[1]] = match[2]
print(*sorted(f"{name}=={version}" for name, version in lowest.items()), sep="\n")
