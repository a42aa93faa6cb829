"""`python -m minipeft support`: which method works on which architecture."""

from __future__ import annotations

import argparse

from minipeft.commands.options import add_parser


def add(commands, arguments: list[str]) -> None:
    parser = add_parser(
        commands,
        "support",
        "which method works on which architecture",
        "Print which method is tested on which architecture with which head.",
        "support\nsupport --list",
    )
    parser.add_argument("--list", action="store_true", help="a line for every pair, tab-separated")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from minipeft.analysis import support

    print(support.listed() if options.list else support.table())
    return 0
