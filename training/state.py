"""Everything of a run that training changes, and thus what a checkpoint holds."""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segmentation_node.errors import reason
from segmentation_node.networks import build_network
from training.errors import DivergedError, TrainingError
from training.pretrained import load_trunk
from training.recipe import Recipe
from training.start_weights import load_start

WINDOW = 20
"""Steps over which losses are averaged before they are compared."""
LARGEST_GROWTH = 10.0
"""The mean loss may be this many times the first steps' before the run counts as diverged."""


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
        channels = self._channels()
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
        try:
            self.network.eval()(torch.zeros(1, 3, 64, 64))
            found = [self._outputs.pop(layer) for layer in self.layers]
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise TrainingError(
                "the network does not compute with these network_options and auxiliary_heads: "
                + reason(error)
            ) from error
        self.network.train(was_training)
        return [output.shape[1] for output in found]


class DivergenceGuard:
    """Looks at every loss; raises DivergedError on one that is not finite, or on growth."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.first: list[float] = []
        self.recent: list[float] = []

    def check(self, losses: Iterable[float]) -> None:
        """Take the losses of further steps."""
        for loss in losses:
            if not math.isfinite(loss):
                self._stop(f"the loss became {loss}")
            if len(self.first) < WINDOW:
                self.first.append(loss)
                continue
            self.recent = [*self.recent[1 - WINDOW :], loss]
            now, then = _mean(self.recent), _mean(self.first)
            if len(self.recent) == WINDOW and now > LARGEST_GROWTH * then:
                self._stop(f"the loss grew from {then:.4g} to {now:.4g}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"first": self.first, "recent": self.recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.first, self.recent = list(state["first"]), list(state["recent"])

    def _stop(self, found: str) -> None:
        raise DivergedError(
            f"{found}; lower learning_rate (now {self.learning_rate:g}) or max_gradient_norm, "
            "which limits nothing at 0"
        )


class TrainingState:
    """Network, average, optimiser, schedule, random numbers and position of a run."""

    def __init__(
        self, recipe: Recipe, classes: int, steps_per_epoch: int, device: torch.device
    ) -> None:
        torch.manual_seed(recipe.seed)
        try:
            network = build_network(recipe.network, classes, recipe.network_options)
            trunk: list[str] = []
            self.unmeasured: list[str] = []
            """Batch norms of the network that ``scoring.measure_batch_norm`` has to see."""
            if recipe.trunk:
                report = load_trunk(network, recipe.trunk)
                print(report, flush=True)
                trunk = [f"network.{name}" for name in report.matched]
                self.unmeasured = report.norms
            if recipe.start_weights:
                resized = sized_by_classes(recipe, classes)
                print(load_start(network, recipe, resized), flush=True)
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
        self.data: dict[str, Any] = {}
        """What the run learns from, by what it is called: the number of images, the classes."""

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
            "data": self.data,
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


def make_optimiser(recipe: Recipe, model: nn.Module, trunk: Collection[str] = ()) -> Optimizer:
    """The recipe's optimiser at its peak learning rates.

    ``trunk`` names the model's parameters that came from a pre-trained trunk: they are its last
    group, at ``trunk_rate`` of the others' rate.
    """
    rate, decay = recipe.learning_rate, recipe.weight_decay
    named = list(model.named_parameters())
    groups = [{"params": [value for name, value in named if name not in trunk], "lr": rate}]
    loaded = [value for name, value in named if name in trunk]
    if loaded:
        groups.append({"params": loaded, "lr": rate * recipe.trunk_rate})
    if recipe.optimiser == "sgd":
        return SGD(groups, rate, momentum=recipe.momentum, weight_decay=decay)
    return AdamW(groups, rate, weight_decay=decay)


def make_schedule(recipe: Recipe, optimiser: Optimizer, total_steps: int) -> LRScheduler:
    """The recipe's schedule over that many optimiser steps; the optimiser's rates are its peaks."""
    if recipe.schedule == "one_cycle":
        share = recipe.warmup_share
        return OneCycleLR(
            optimiser,
            [group["lr"] for group in optimiser.param_groups],
            total_steps,
            # Torch divides by the steps of the warm-up after its first, of which one has none.
            pct_start=0.0 if share * total_steps == 1 else share,
            # SGD keeps the recipe's momentum; AdamW's cycles, as torch has it.
            cycle_momentum=recipe.optimiser != "sgd",
        )
    power = recipe.poly_power if recipe.schedule == "poly" else 0.0
    return LambdaLR(optimiser, warm_up_then_fall(total_steps, recipe.warmup_share, power))


def warm_up_then_fall(total: int, warmup_share: float, power: float) -> Callable[[int], float]:
    """Factor of the learning rate by step: linear rise, then (1 - share of the rest)^power."""
    warmup = min(round(total * warmup_share), total - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return (1 - min(1.0, (step - warmup) / (total - warmup))) ** power

    return factor


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
