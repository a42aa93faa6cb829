"""Fine-tune a base with any method, look at what came of it, and use it."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from minipeft.commands.options import Parser, Versions
from minipeft.stopping import interrupt_as_usual
from minipeft.training.distributed import started_by_torchrun

COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "generate",
    "merge",
    "inspect",
    "doctor",
    "compare",
    "convert",
    "support",
    "lessons",
    "claims",
    "fetch",
    "check",
)
TRAINING = ("train", "compare")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a negative result, 2 unusable input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for name in ("stdout", "stderr"):  # None where they are closed, as by a service
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    parser = Parser(
        prog="python -m minipeft",
        description=__doc__,
        epilog="`python -m minipeft COMMAND --help` has examples; "
        "`python -m minipeft train` trains an example.",
    )
    parser.add_argument("--version", action=Versions, help="say it and exit")
    for stream in (sys.stdout, sys.stderr):  # a sign that they cannot show does not end a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    interrupt_as_usual()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    try:
        for name in COMMANDS:
            import_module(f"minipeft.commands.{name}").add(commands, arguments)
        if not arguments:
            parser.print_help()
        options = parser.parse_args(arguments)
        options.arguments = list(arguments)
        if options.command in TRAINING and started_by_torchrun():
            if os.environ.get("LOCAL_RANK", "0") != "0":
                return 0  # the first process says it, and torchrun ends with its exit code
            raise ValueError(
                f"The command {options.command} runs in one process: start it without torchrun, "
                "or call minipeft.train in a script of your own, whose processes share every batch."
            )
        with terminated_as_stopped(), warnings_as_notes():
            code = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("minipeft: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads what is printed has gone: `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError) as error:
        if os.environ.get("MINIPEFT_TRACEBACK"):
            raise
        print(f"minipeft: {sentence(error)}", file=sys.stderr)
        return 2
    except Exception as error:  # a mistake of ours; a traceback would help nobody but us
        if os.environ.get("MINIPEFT_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {sentence(error)}"
        print(f"minipeft: {what} (MINIPEFT_TRACEBACK=1 shows where)", file=sys.stderr)
        return 2


@contextmanager
def terminated_as_stopped() -> Iterator[None]:
    """SIGTERM, as machines that are shut down send it, does what Ctrl-C does.

    Also where Ctrl-C is ignored, as in what a script starts in the background.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """A warning of ours is a sentence: it is printed without the line of code that gave it."""
    usual, said = warnings.formatwarning, set()

    def as_note(message, category, *others) -> str:
        if not issubclass(category, UserWarning):
            return usual(message, category, *others)
        first = str(message) not in said  # once, from however many lines it comes
        said.add(str(message))
        return f"note: {message}\n" * first

    warnings.formatwarning = as_note
    try:
        yield
    finally:
        warnings.formatwarning = usual


def sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}."
    return " ".join(str(error).split()) or f"{type(error).__name__}."


def run_command() -> None:
    """The command `minipeft` that pip installs."""
    sys.exit(main())


if __name__ == "__main__":
    run_command()
