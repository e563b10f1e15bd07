"""What several benchmarks share: options, sizes and images, and the backends that are there."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS
from segmentation_node.backends import BACKENDS
from segmentation_node.command_line import CommandParser
from segmentation_node.evaluation.datasets.street import StreetDrive

Size = tuple[int, int]
"""(height, width)."""
THREADS = len(os.sched_getaffinity(0))
"""As many as this process may use logical cores."""
MEANINGS = {
    "after_s": "seconds after the hog",
    "backend": "what computes",
    "backends": "what computes, one after the other",
    "cameras": "how many cameras",
    "classes": "how many the networks tell apart",
    "dataset": "where the pictures come from",
    "deadline_ms": "the deadline in ms; default: 0, --times-idle says it",
    "device": "what computes, cpu or cuda (of gpu also cuda:N)",
    "drives": "how many bags are scored",
    "frames": "how many pictures are measured, in each case",
    "hog_s": "seconds with a hog on every core",
    "idle_s": "seconds in which nothing else runs",
    "images": "how many pictures of the training split are used",
    "model": "model folder, or shipped model's name",
    "models": "model folders, shipped models' names or, of end_to_end, networks",
    "network": "what is trained",
    "networks": "what is measured",
    "nodes": "which nodes take turns; the usual one always does",
    "parallel_network": "what Table 2 is about",
    "precision": "in which Table 1 computes",
    "processes": "of Table 2: over how many a batch is split, one row each",
    "rate_hz": "images per second of each camera",
    "reports": "how many are merged",
    "root": "folder of the data set",
    "rounds": "how often all that is compared takes its turn",
    "run_times": "what computes, in turns",
    "runs": "runs of each in a round",
    "seconds": "of Table 1: time for each row",
    "sizes": "of the images in pixels",
    "split": "of the data set",
    "tables": "which of the article's",
    "threads": "CPU threads; default: as many as the process may use cores",
    "times_idle": "the deadline, in p95 of processing on the idle machine",
    "turn_s": "seconds of a turn",
    "variants": "which int8 forms",
    "warm_up": "batches before those that are measured",
}
"""What the option of this name says, in every benchmark that has it."""


def parser_of(
    benchmark: str, about: str | None, choices: Mapping[str, Any] | None = None, **defaults: Any
) -> argparse.ArgumentParser:
    """A command line with ``--output``, and an option for each default, of its type.

    ``MEANINGS`` says what it is. Where the default is a list there may be several; one of ``Size``
    is given as WIDTHxHEIGHT.
    """
    parser = CommandParser(prog=f"python3 -m benchmarks.{benchmark}", description=about)
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS / f"{benchmark}.json",
        metavar="FILE",
        help=f"JSON file to write; default: benchmarks/results/{benchmark}.json",
    )
    for name, default in defaults.items():
        several = isinstance(default, list)
        one = default[0] if several else default
        parser.add_argument(
            "--" + name.replace("_", "-"),
            nargs="+" if several else None,
            type=size_of if isinstance(one, tuple) else type(one),
            choices=(choices or {}).get(name),
            metavar=_metavar(name, one, choices or {}),
            default=default,
            help=_help(name, default, choices or {}),
        )
    return parser


def _metavar(name: str, value: Any, choices: Mapping[str, Any]) -> str:
    """What stands for a value of the option."""
    if isinstance(value, tuple):
        return "WIDTHxHEIGHT"
    is_a_name = name in choices or isinstance(value, str)
    return "NAME" if is_a_name else "N" if isinstance(value, int) else "X"


def _help(name: str, default: Any, choices: Mapping[str, Any]) -> str:
    """What the option means, what it takes and, as one would give it, its default."""
    text = MEANINGS[name]
    if name in choices:
        text += ": " + ", ".join(map(str, choices[name]))
    if "default" in text or not default:
        return text
    values = default if isinstance(default, list) else [default]
    given = [size_text(item) if isinstance(item, tuple) else str(item) for item in values]
    return f"{text} (default: {' '.join(given)})"


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
