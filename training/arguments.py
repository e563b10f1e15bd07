"""Options that several commands take; an impossible one is refused in one line."""

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch

from segmentation_node.errors import ContentError, shown
from segmentation_node.yaml_and_json import parse_yaml

MAX_BATCH = 1024
MAX_CLASSES = 255
"""A class map is uint8, and 255 is unlabelled."""


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A whole number in a range, both ends included."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number") from None
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text} is not in {least} to {most}")
        return number

    return parse


def minutes(text: str) -> float:
    """A time that is not negative."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no number of minutes")
    return number


def usable_device(text: str) -> str:
    """A device of torch that computes on this machine."""
    try:
        torch.zeros(1, device=text).item()
    except (AssertionError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0][:200]
        raise argparse.ArgumentTypeError(f"{shown(text)} computes nothing here: {why}") from error
    return text


def network_options(text: str) -> dict[str, Any]:
    """A network's options in YAML, as in a recipe: ``{residual: true}``."""
    try:
        values = parse_yaml(text, "YAML")
    except ContentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not isinstance(values, dict):
        raise argparse.ArgumentTypeError(f"{shown(values)} has no keys and values")
    return values


def add_skip_broken(parser: argparse.ArgumentParser) -> None:
    """Whether a sample that cannot be read ends the command, which it does by default."""
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out, and name, the pictures that cannot be read; else the first one ends the "
        "command",
    )
