"""What lets an exercise notebook start anywhere: a badge that opens it on Colab, a set-up cell.

Both name the tag of the version that the notebook was built from, so that a notebook and the
package it installs belong together. The repository's address stands in pyproject.toml; whoever
writes assignments from a copy of it sets MINIPEFT_REPOSITORY to where the copy is.
"""

from __future__ import annotations

import os
import tomllib

from builder.cut import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GIVEN = os.environ.get("MINIPEFT_REPOSITORY", "").strip() or PROJECT["urls"]["Repository"]
REPOSITORY = GIVEN.rstrip("/").removesuffix(".git")
TAG = f"v{PROJECT['version']}"

SOURCE = f"""\
# On Colab, or wherever minipeft is missing, this installs it. Elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("minipeft") is None:
    %pip install --quiet "minipeft[hub,plots] @ git+{REPOSITORY}@{TAG}\""""


def badge(name: str) -> str:
    """Markdown of the *Open in Colab* badge of notebooks/exercises/NAME; "" where Colab has none.

    Colab opens notebooks from GitHub only.
    """
    if not REPOSITORY.startswith("https://github.com/"):
        return ""
    path = REPOSITORY.removeprefix("https://")
    target = path.replace("github.com", "github", 1) + f"/blob/{TAG}/notebooks/exercises/{name}"
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({picture})](https://colab.research.google.com/{target})"
