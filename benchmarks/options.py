"""What several benchmarks share: options, sizes and images, and the backends that are there."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS
from segmentation_node.backends import BACKENDS
from segmentation_node.evaluation.datasets.street import StreetDrive

Size = tuple[int, int]
"""(height, width)."""
THREADS = len(os.sched_getaffinity(0))
"""As many as this process may use logical cores."""


def parser_of(
    benchmark: str, about: str | None, choices: Mapping[str, Any] | None = None, **defaults: Any
) -> argparse.ArgumentParser:
    """A command line with ``--output``, and an option for each default, of its type.

    Where that is a list there may be several; one of ``Size`` is given as WIDTHxHEIGHT.
    """
    parser = argparse.ArgumentParser(prog=f"benchmarks.{benchmark}", description=about)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{benchmark}.json")
    for name, default in defaults.items():
        several = isinstance(default, list)
        one = default[0] if several else default
        parser.add_argument(
            "--" + name.replace("_", "-"),
            nargs="+" if several else None,
            type=size_of if isinstance(one, tuple) else type(one),
            choices=(choices or {}).get(name),
            default=default,
            help="default: %(default)s",
        )
    return parser


def settings_of(options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """The options, and what else holds for all rows; no folders, which are elsewhere for others."""
    hidden = ("output", "root", "part", "role")
    return {**{name: value for name, value in vars(options).items() if name not in hidden}, **more}


def size_of(text: str) -> Size:
    """The size in WIDTHxHEIGHT."""
    width, height = (int(part) for part in text.split("x"))
    return height, width


def size_text(size: Size) -> str:
    """WIDTHxHEIGHT."""
    return f"{size[1]}x{size[0]}"


def street_images(size: Size, count: int, apart: int = 1) -> list[np.ndarray]:
    """Frames of the street drive, so many apart: uint8 RGB (H, W, 3)."""
    drive = StreetDrive(seed=8, width=size[1], height=size[0])
    return [drive.frame(apart * index)[0] for index in range(count)]


def installed(backends: Mapping[str, str]) -> list[str]:
    """The names whose backend this machine has; prints a line about each that it lacks."""
    reasons = {name: BACKENDS[backend].unavailable() for name, backend in backends.items()}
    for name, reason in reasons.items():
        if reason:
            print(f"{name} is left out: {reason}", flush=True)
    return [name for name, reason in reasons.items() if not reason]
