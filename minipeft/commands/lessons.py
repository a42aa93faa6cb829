"""`python -m minipeft lessons`: copy the exercise notebooks of the course."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add(commands, arguments: list[str]) -> None:
    parser = commands.add_parser(
        "lessons",
        help="copy the exercise notebooks of the course",
        description="Copy the exercise notebooks of the course to a folder. A notebook that is "
        "there already is kept as it is: it may have been worked in.",
        epilog="example:\n  minipeft lessons work\n  minipeft check work/10_lora.ipynb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="where to; made if it is not there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from minipeft.checks.lessons import lessons

    folder = Path(options.folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the notebooks.")
    folder.mkdir(parents=True, exist_ok=True)
    for lesson in lessons().values():
        path = folder / lesson.path.name
        if path.exists():
            print(f"kept   {path}")
            continue
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(lesson.path.read_bytes())
        os.replace(temporary, path)
        print(f"copied {path}")
    return 0
