"""`python -m minipeft claims`: what is claimed about these methods, and what the lessons found."""

from __future__ import annotations

import argparse
from pathlib import Path

from minipeft.commands.options import add_parser


def add(commands, arguments: list[str]) -> None:
    parser = add_parser(
        commands,
        "claims",
        "claims about the methods, and what the lessons measured",
        "Print every claim with what the executed lessons recorded about it: measurement, verdict "
        "and the address of the cell.",
        "claims\nclaims 9 13\nclaims --notebooks build/course",
    )
    parser.add_argument("numbers", nargs="*", type=int, help="only these, with source and rule")
    parser.add_argument("--notebooks", type=Path, help="a folder of notebooks that were run")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from minipeft.course import claims

    if options.notebooks is not None and not options.notebooks.is_dir():
        raise FileNotFoundError(f"There is no folder {options.notebooks} with notebooks in it.")
    unknown = sorted(set(options.numbers) - set(claims.CLAIMS))
    if unknown:
        raise ValueError(f"Claims have the numbers 1 to {max(claims.CLAIMS)}, not {unknown[0]}.")
    every = claims.records(options.notebooks)
    for number in options.numbers:
        print(claims.CLAIMS[number])
        for one in (one for one in every if one.claim == number):
            print(f"  measured: {one.measured}\n  rule: {one.rule}")
            print(f"  verdict: {one.verdict}    {one.address}")
    if not options.numbers:
        print(claims.listing(every))
    return 0
