"""Options that several benchmarks share."""

import argparse
import os
from pathlib import Path

from benchmarks.record import RESULTS

Size = tuple[int, int]
"""(height, width)."""


def parser_of(benchmark: str, about: str | None) -> argparse.ArgumentParser:
    """A command line that has ``--output`` already."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{benchmark}", description=about)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{benchmark}.json")
    return parser


def add_threads(parser: argparse.ArgumentParser, about: str | None = None) -> None:
    """As many as this process may use logical cores."""
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help=about)


def size_of(text: str) -> Size:
    """The size in WIDTHxHEIGHT."""
    width, height = (int(part) for part in text.split("x"))
    return height, width


def size_text(size: Size) -> str:
    """WIDTHxHEIGHT."""
    return f"{size[1]}x{size[0]}"
