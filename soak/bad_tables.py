"""Data files that are empty, ragged, of another encoding, endless: read by `minipeft.tables`."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

from minipeft.tasks import tables
from soak.ledger import Clock, Line

COUNT = 2000
WORDS = ("a fine film", "1", "0", "", " ", "é", "\t", ",", '"', '""', "\\", "\0", "\u2028", "null")


def good(ending: str, rng: random.Random) -> bytes:
    rows = [(rng.choice(WORDS), rng.choice(WORDS)) for _ in range(rng.choice((0, 1, 3, 20)))]
    if ending == ".jsonl":
        lines = [json.dumps({"input": a, "target": b}) for a, b in rows]
    elif ending == ".conll":
        lines = [f"{a}\t{b}" if rng.random() < 0.8 else "" for a, b in rows]
    else:
        mark = "," if ending == ".csv" else "\t"
        lines = ["input" + mark + "target", *(f"{a}{mark}{b}" for a, b in rows)]
    return rng.choice(("\n", "\r\n")).join(lines).encode()


def damaged(whole: bytes, rng: random.Random, number: int) -> bytes:
    what = rng.randrange(12)
    lines = whole.split(b"\n")
    at = rng.randrange(len(lines))
    junk = (
        b'{"input": 3}',
        b"[1]",
        b"{",
        b"a,b,c,d,e",
        b"x",
        b'"',
        b"\xff\xff",
        b"[" * 100_000,
        b"\0",
    )
    if what == 0:
        return b""
    if what == 1:
        return whole.decode().encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    if what == 2:
        return whole[: rng.randrange(len(whole) + 1)]
    if what == 3:
        return rng.randbytes(rng.randrange(2000))
    if what == 4 and number % 5 == 0:  # one line of 10 MB
        lines[at] = rng.choice((b"x", b'"', b'{"input": "', b"a,")) * 10_000_000
        return b"\n".join(lines)[:10_000_000]
    if what == 5:
        return b"".join(lines)
    if what == 6:
        return whole.replace(b"input", rng.choice((b"", b"target", b"text", b"\xe9")))
    if what == 7:
        whole = bytearray(whole or b"x")
        whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        return bytes(whole)
    lines.insert(at, rng.choice(junk))
    return b"\n".join(lines)


def soak(count: int | None, clock: Clock) -> list[Line]:
    """A line for each kind of file."""
    endings = (*tables.ENDINGS, ".txt", "")
    lines = {ending: Line(f"data: *{ending}") for ending in endings}
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        for number in range(COUNT if count is None else count):
            if clock.over():
                break
            begun = time.monotonic()
            ending = rng.choice((*tables.ENDINGS, *tables.ENDINGS, *endings))
            path, line = Path(place) / f"data{ending}", lines[ending]
            path.write_bytes(damaged(good(ending, rng), rng, number))
            columns = rng.choice(((), ("input", "target"), ("sentence",), ("input",)))

            def use(path=path, columns=columns) -> None:
                for row in tables.read(path, columns):
                    if not all(isinstance(row[column], str) for column in columns):
                        raise AssertionError(f"a row is {row}")

            line.attempt(f"{number}, columns {columns}", use)
            line.seconds += time.monotonic() - begun
    return list(lines.values())
