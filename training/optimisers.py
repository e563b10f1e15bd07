"""Optimisers and learning-rate schedules by the names that recipes use."""

from collections.abc import Callable, Collection

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from training.recipe import Recipe


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
        return OneCycleLR(
            optimiser,
            [group["lr"] for group in optimiser.param_groups],
            total_steps,
            pct_start=recipe.warmup_share,
            # SGD keeps the recipe's momentum; AdamW's cycles, as torch has it.
            cycle_momentum=recipe.optimiser != "sgd",
        )
    power = recipe.poly_power if recipe.schedule == "poly" else 0.0
    return LambdaLR(optimiser, warm_up_then_fall(total_steps, recipe.warmup_share, power))


def warm_up_then_fall(total: int, warmup_share: float, power: float) -> Callable[[int], float]:
    """Factor of the learning rate by step: linear rise, then (1 - share of the rest)^power."""
    warmup = round(total * warmup_share)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return (1 - min(1.0, (step - warmup) / (total - warmup))) ** power

    return factor
