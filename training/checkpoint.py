"""Weights and checkpoints on disk, each whole or not at all."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from segmentation_node.errors import reason
from segmentation_node.files import new_file
from segmentation_node.networks.folding import load_folded_or_not
from training.errors import TrainingError, writing

CHECKPOINT_FILE = "checkpoint.pt"
WEIGHTS_FILE = "weights.safetensors"
BEST_FILE = "best.safetensors"
EPOCHS = "epochs"


def save_weights(path: Path, network: nn.Module, epochs: int | None = None) -> None:
    """Write a network's parameters and buffers as safetensors. Raises OutputError.

    ``epochs``: after how many of a run's, for ``epochs_of``.
    """
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    about = None if epochs is None else {EPOCHS: str(epochs)}
    with writing(path, SafetensorError), new_file(str(path)) as partial:
        save_file(weights, partial, about)
    path.chmod(0o644)


def epochs_of(path: Path) -> int | None:
    """After how many finished epochs a run wrote these weights; None where the file has it not."""
    with safe_open(path, "pt") as file:
        found = (file.metadata() or {}).get(EPOCHS, "")
    return int(found) if found.isdecimal() else None


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights of a safetensors file, and put it into evaluation mode.

    Where the file has no batch norms, the network's are folded first. Raises TrainingError.
    """
    try:
        load_folded_or_not(network.eval(), load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(f"{path}: not this network's weights: {reason(error)}") from error


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Replace the folder's checkpoint. Raises OutputError; then the last one stays."""
    path = folder / CHECKPOINT_FILE
    with writing(path, RuntimeError), new_file(str(path)) as partial:
        torch.save(content, partial)


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
