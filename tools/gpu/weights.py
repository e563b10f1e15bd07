"""Weights in 16 bits and compressed, for the way back."""

import zlib
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save

from tools.gpu import GpuError


def packed_weights(path: Path) -> bytes:
    """Kernels of a safetensors file in half precision; what is small, or too large for it, as is.

    Level 1 takes a fourteenth off, and higher ones no more.
    """
    return zlib.compress(save({name: _halved(item) for name, item in load_file(path).items()}), 1)


def unzipped(content: bytes) -> bytes:
    """The safetensors file of ``packed_weights``. Raises GpuError."""
    try:
        return zlib.decompress(content)
    except zlib.error as error:
        raise GpuError(f"weights that came back are damaged: {error}") from error


def unpacked_weights(content: bytes) -> dict[str, torch.Tensor]:
    """The tensors of ``packed_weights``, in float32 where they were. Raises GpuError."""
    return {
        name: item.float() if item.dtype == torch.float16 else item
        for name, item in load(unzipped(content)).items()
    }


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    # Biases and statistics of a batch norm take no room worth their last bits.
    if tensor.dtype != torch.float32 or tensor.dim() < 2:
        return tensor
    half = tensor.half()
    return half if torch.isfinite(half).all() else tensor
