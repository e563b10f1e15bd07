"""Auxiliary heads: classifiers on inner layers that speed training up and are then dropped."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from training.errors import TrainingError


class WithHeads(nn.Module):
    """A network and 1x1 classifiers on the outputs of some of its modules.

    Image (N, 3, H, W) -> the network's logits, then each head's, (N, classes, H, W) each.
    """

    def __init__(self, network: nn.Module, layers: Iterable[str], classes: int) -> None:
        super().__init__()
        self.network = network
        self.layers = list(layers)
        self._outputs: dict[str, torch.Tensor] = {}
        modules = dict(network.named_modules())
        unknown = [layer for layer in self.layers if layer not in modules]
        if unknown:
            known = [name for name in modules if name and "." not in name]
            raise TrainingError(f"auxiliary_heads: no modules {unknown}; there are {known}")
        for layer in self.layers:
            modules[layer].register_forward_hook(self._recorder(layer))
        channels = self._channels() if self.layers else []
        self.heads = nn.ModuleList(nn.Conv2d(count, classes, 1) for count in channels)

    def forward(self, image_nchw: torch.Tensor) -> list[torch.Tensor]:
        logits = [self.network(image_nchw)]
        size = logits[0].shape[2:]
        for layer, head in zip(self.layers, self.heads, strict=True):
            small = head(self._outputs.pop(layer))
            logits.append(functional.interpolate(small, size, mode="bilinear"))
        return logits

    def _recorder(self, layer: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._outputs[layer] = output

        return record

    @torch.no_grad()
    def _channels(self) -> list[int]:
        was_training = self.network.training
        self.network.eval()(torch.zeros(1, 3, 64, 64))
        self.network.train(was_training)
        found = [self._outputs.pop(layer) for layer in self.layers]
        return [output.shape[1] for output in found]
