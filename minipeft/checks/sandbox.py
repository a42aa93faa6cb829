"""The process in which one submitted exercise runs; started by `submission.judge`, not by people.

It reads an order (JSON) from standard input, takes limits upon itself that it cannot lift again,
runs the cell, runs the check, and writes the verdict to the pipe whose number is its argument.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def limit(order: dict) -> None:
    """Memory beyond what is in use now, processor seconds, size of files; no core dump."""
    used = 0
    status = Path("/proc/self/status")
    if status.exists():  # Linux: private memory, in kB
        used = next(
            int(line.split()[1]) * 1024
            for line in status.read_text().splitlines()
            if line.startswith("VmData:")
        )
    wanted = {
        resource.RLIMIT_DATA: used + order["megabytes"] * 2**20,
        resource.RLIMIT_CPU: int(order["seconds"]) + 1,
        resource.RLIMIT_FSIZE: order["output_bytes"],
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        resource.setrlimit(kind, (value, value))


def verdict(order: dict, memory_error: str) -> tuple[str, str]:
    """Run the cell, then the check: ("passed" | "failed" | "unfinished", sentence)."""
    from minipeft.checks import EXERCISES, CheckFailed, NotFinished

    name = order["reference"].partition(":")[2]
    if order["reference"] not in EXERCISES:
        return "failed", f"{order['reference']} is not an exercise of this version of minipeft"
    # An earlier exercise that this one builds on is taken from the package: each is judged alone.
    space: dict = {"__name__": "submission"}
    for used, reference in order["uses"].items():
        space[used] = getattr(importlib.import_module(reference.partition(":")[0]), used)
    limit(order)
    try:
        exec(compile(order["source"], "<exercise>", "exec"), space)
        if name not in space:
            return "failed", f"the cell does not define {name}"
        EXERCISES[order["reference"]](space[name])
        return "passed", ""
    except NotFinished as error:
        return "unfinished", str(error)
    except CheckFailed as error:
        if isinstance(error.__cause__, MemoryError) or "can't allocate" in str(error):
            return "failed", memory_error
        return "failed", str(error)
    except NotImplementedError as error:
        return "unfinished", str(error)
    except MemoryError:
        return "failed", memory_error
    except NameError as error:
        return "failed", f"{error}: the cell must run alone, so put its imports into it"
    except Exception as error:  # whatever a learner's code raises
        if "can't allocate" in str(error):
            return "failed", memory_error
        first = str(error).splitlines()[0] if str(error) else ""
        return "failed", f"the cell stopped with {type(error).__name__}: {first}"[:300]


def main() -> None:
    """Read the order, run it, write the verdict."""
    order = json.load(sys.stdin)
    pipe = int(sys.argv[1])
    memory_error = f"needed more than {order['megabytes']} MB of memory"
    result, sentence = verdict(order, memory_error)
    os.write(pipe, json.dumps({"result": result, "sentence": sentence}).encode())
    os._exit(0)  # do not wait for threads that the exercise may have left behind


if __name__ == "__main__":
    main()
