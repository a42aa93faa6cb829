"""Run the tests whose results are numbers as other machines would: python tests/machines.py

Other instruction sets round sums in another order, and so does another number of threads. Each line
of SETTINGS is one run of pytest; arguments are handed to it (default: FOLDERS). Ends
with a line per setting; exits with 1 if one of them failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("tests/minipeft", "tests/parity", "tests/tiny_transformer")
SETTINGS = {  # what PyTorch and oneDNN are told of the processor, how many threads a test has
    "this processor, 2 threads": {"MINIPEFT_TEST_THREADS": "2"},
    "no vectors, 1 thread": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "no vectors, 2 threads": {
        **{"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
        "MINIPEFT_TEST_THREADS": "2",
    },
    "AVX2, 1 thread": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX2, 2 threads": {
        **{"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        "MINIPEFT_TEST_THREADS": "2",
    },
}


def main(arguments: list[str]) -> int:
    workers = os.environ.get("WORKERS", "").strip() or "2"
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "--dist", "worksteal"]
    codes = {}
    for name, settings in SETTINGS.items():
        print(f"\n{name}: {' '.join(f'{k}={v}' for k, v in settings.items())}", flush=True)
        environment = {**os.environ, **settings}
        done = subprocess.run([*command, *(arguments or FOLDERS)], cwd=ROOT, env=environment)
        codes[name] = done.returncode
    print("\n" + "\n".join(f"{'failed' if c else 'passed'}  {name}" for name, c in codes.items()))
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
