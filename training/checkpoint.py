"""Files that are whole or absent: written under a temporary name, then renamed."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from training.errors import TrainingError, reason, writing

CHECKPOINT_FILE = "checkpoint.pt"
WEIGHTS_FILE = "weights.safetensors"
BEST_FILE = "best.safetensors"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file beside ``path``, bring it to the disk, and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's parameters and buffers as safetensors. Raises TrainingError."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with writing(path, SafetensorError):
        write_atomically(path, lambda partial: save_file(weights, partial))
    path.chmod(0o644)


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights of a safetensors file. Raises TrainingError."""
    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(f"{path}: not this network's weights: {reason(error)}") from error


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Replace the folder's checkpoint. Raises TrainingError; then the last one stays."""
    path = folder / CHECKPOINT_FILE
    with writing(path, RuntimeError):
        write_atomically(path, lambda partial: torch.save(content, partial))


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the folder's checkpoint; nothing but tensors and plain values is unpickled.

    Raises TrainingError where there is none, or a damaged one.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise TrainingError(f"{path}: no checkpoint to resume from; start without --resume")
    # Damaged bytes make zipfile and torch raise nearly anything.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrainingError(f"{path}: not a whole checkpoint: {reason(error)}") from error
    if damaged or not isinstance(content, dict) or set(content) != {"recipe", "state"}:
        found = f"{damaged} is damaged" if damaged else "it holds something else"
        raise TrainingError(f"{path}: not a whole checkpoint: {found}")
    return content
