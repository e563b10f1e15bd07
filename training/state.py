"""Everything of a run that training changes, and thus what a checkpoint holds."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segmentation_node.networks import build_network
from training.errors import TrainingError
from training.guard import DivergenceGuard
from training.heads import WithHeads
from training.optimisers import make_optimiser, make_schedule
from training.pretrained import load_start, load_trunk
from training.recipe import Recipe


class TrainingState:
    """Network, average, optimiser, schedule, random numbers and position of a run."""

    def __init__(
        self, recipe: Recipe, classes: int, steps_per_epoch: int, device: torch.device
    ) -> None:
        torch.manual_seed(recipe.seed)
        try:
            network = build_network(recipe.network, classes, recipe.network_options)
            trunk: list[str] = []
            if recipe.trunk:
                report = load_trunk(network, recipe.trunk)
                print(report, flush=True)
                trunk = [f"network.{name}" for name in report.matched]
            if recipe.start_weights:
                resized = sized_by_classes(recipe, classes)
                print(load_start(network, recipe.start_weights, resized), flush=True)
        except ValueError as error:
            raise TrainingError(str(error)) from error
        self.model = WithHeads(network, recipe.auxiliary_heads, classes)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = _average(self.model.network, recipe.ema_decay)
        self.optimiser = make_optimiser(recipe, self.model, trunk)
        self.schedule = make_schedule(recipe, self.optimiser, recipe.epochs * steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.guard = DivergenceGuard(recipe.learning_rate)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.epoch = 0
        """Finished epochs."""
        self.step = 0
        """Steps done in the epoch after those."""
        self.epoch_losses: list[float] = []
        self.epoch_start_rng = self.generator.get_state()
        self.elapsed_s = 0.0
        self.best_mean_iou = -1.0

    @property
    def result(self) -> nn.Module:
        """The network that is scored and exported: the average where there is one."""
        return self.model.network if self.averaged is None else self.averaged.module

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def parts(self) -> dict[str, Any]:
        """The parts that have a state of their own."""
        parts: dict[str, Any] = {
            "model": self.model,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
            "scaler": self.scaler,
            "guard": self.guard,
        }
        return parts if self.averaged is None else {**parts, "averaged": self.averaged}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "parts": {name: part.state_dict() for name, part in self.parts().items()},
            "epoch": self.epoch,
            "step": self.step,
            "epoch_losses": list(self.epoch_losses),
            "epoch_start_rng": self.epoch_start_rng,
            "elapsed_s": self.elapsed_s,
            "best_mean_iou": self.best_mean_iou,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
        for name, part in self.parts().items():
            part.load_state_dict(state["parts"][name])
        self.epoch, self.step = state["epoch"], state["step"]
        self.epoch_losses = list(state["epoch_losses"])
        self.generator.set_state(state["epoch_start_rng"])
        self.elapsed_s, self.best_mean_iou = state["elapsed_s"], state["best_mean_iou"]


def sized_by_classes(recipe: Recipe, classes: int) -> list[str]:
    """Names of the network's tensors whose shape follows the number of classes."""
    with torch.device("meta"):
        own, other = (
            build_network(recipe.network, count, recipe.network_options).state_dict()
            for count in (classes, classes + 1)
        )
    return [name for name in own if own[name].shape != other[name].shape]


def _average(network: nn.Module, decay: float) -> AveragedModel | None:
    if decay == 0:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
