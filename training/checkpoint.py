"""Weights and checkpoints on disk, each whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from segmentation_node.files import new_file
from training.errors import TrainingError

CHECKPOINT_FILE = "checkpoint.pt"
WEIGHTS_FILE = "weights.safetensors"
BEST_FILE = "best.safetensors"


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's parameters and buffers as safetensors."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with new_file(str(path)) as partial:
        save_file(weights, partial)
    path.chmod(0o644)


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Replace the folder's checkpoint."""
    with new_file(str(folder / CHECKPOINT_FILE)) as partial:
        torch.save(content, partial)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the folder's checkpoint; nothing but tensors and plain values is unpickled."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise TrainingError(f"{path}: no checkpoint to resume from; start without --resume")
    return torch.load(path, map_location="cpu", weights_only=True)
