"""Files that are whole or absent: written under a temporary name, then renamed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from training.errors import TrainingError

CHECKPOINT_FILE = "checkpoint.pt"
WEIGHTS_FILE = "weights.safetensors"
BEST_FILE = "best.safetensors"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file beside ``path``, bring it to the disk, and rename it."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    with open(partial, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, path)


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's parameters and buffers as safetensors."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(path, lambda partial: save_file(weights, partial))
    path.chmod(0o644)


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Replace the folder's checkpoint."""
    write_atomically(folder / CHECKPOINT_FILE, lambda partial: torch.save(content, partial))


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the folder's checkpoint; nothing but tensors and plain values is unpickled."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise TrainingError(f"{path}: no checkpoint to resume from; start without --resume")
    return torch.load(path, map_location="cpu", weights_only=True)
