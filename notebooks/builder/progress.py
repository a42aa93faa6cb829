"""What a build says of lessons that run side by side.

In a terminal one line at the bottom tells where each of them is, and is rewritten; a lesson that
has finished leaves its own line above it. In a log only the lines of finished lessons stand.
"""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time


class Progress:
    """The lines of all lessons; any thread may write."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.lock = threading.Lock()
        self.running: dict[str, LessonProgress] = {}
        self.last_shown = 0.0

    def lesson(self, name: str) -> LessonProgress:
        with self.lock:
            self.running[name] = LessonProgress(self, name)
            return self.running[name]

    def show(self, at_once: bool = True) -> None:
        """Rewrite the last line, if there is a terminal and it was not written just now."""
        now = time.perf_counter()
        with self.lock:
            if self.live and (at_once or now - self.last_shown > 0.2):
                self.last_shown = now
                width = shutil.get_terminal_size().columns - 1
                parts = (lesson.place(now) for lesson in self.running.values())
                print("\r\033[K" + f"  {'  |  '.join(parts)}"[:width], end="", flush=True)

    def end(self, name: str, lines: list[str]) -> None:
        with self.lock:
            self.running.pop(name, None)
            start = "\r\033[K" if self.live else ""
            print(start + "\n".join(lines), flush=True)
        if self.running:
            self.show()


class LessonProgress:
    """Where one lesson is."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name = progress, name
        self.began = time.perf_counter()
        self.cell, self.cells, self.bar = 0, 0, ""
        self.warnings: list[str] = []

    def update(self, cell: int, cells: int, text: str) -> None:
        """A cell begins (text ""), or has written `text` to stderr."""
        self.cell, self.cells, self.bar = cell, cells, ""
        parts = [part for part in re.split(r"[\r\n]", text) if part.strip()]
        if parts:
            self.bar = parts[-1].strip()
            if "\r" not in text and re.search(r"\w(Warning|Error)\b", text):
                self.warnings.append(f"cell {cell}: {parts[0].strip()[:160]}")
        self.progress.show(at_once=not text)

    def place(self, now: float) -> str:
        where = f"cell {self.cell}/{self.cells}" if self.cells else "starts"
        bar = f"  {self.bar}" if self.bar and len(self.progress.running) == 1 else ""
        return f"{self.name} {where} {now - self.began:.0f} s{bar}"

    def end(self, text: str) -> None:
        warnings = [f"      {warning}" for warning in self.warnings[:3]]
        self.progress.end(self.name, [f"  {self.name:<24} {text}", *warnings])
