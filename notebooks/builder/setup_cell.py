"""What lets an exercise notebook start anywhere: a badge that opens it on Colab, a set-up cell.

Both name the tag of the version that the notebook was built from, so that a notebook and the
package it installs belong together.
"""

from __future__ import annotations

import tomllib

from builder.cut import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
TAG = f"v{PROJECT['version']}"

SOURCE = f"""\
# On Colab, or wherever minipeft is missing, this installs it. Elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("minipeft") is None:
    %pip install --quiet "minipeft[hub,plots] @ git+{REPOSITORY}@{TAG}\""""


def badge(name: str) -> str:
    """Markdown of the *Open in Colab* badge of notebooks/exercises/NAME."""
    path = REPOSITORY.removeprefix("https://")
    target = path.replace("github.com", "github", 1) + f"/blob/{TAG}/notebooks/exercises/{name}"
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({picture})](https://colab.research.google.com/{target})"
