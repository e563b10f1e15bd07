"""The first thing to ask of a network and a loss: can they learn one batch by heart?"""

import torch
from torch.nn import functional

from segmentation_node.labels import UNLABELLED
from segmentation_node.networks.deploy import Normalise
from training.recipe import Recipe

LOOK_EVERY = 10


def overfit_one_batch(
    network: torch.nn.Module,
    images_nhwc: torch.Tensor,
    labels_nhw: torch.Tensor,
    target: float = 0.99,
    most_steps: int = 500,
    learning_rate: float = 2e-3,
) -> float:
    """Train on uint8 images (N, H, W, 3) and labels (N, H, W) until ``target`` is reached.

    Gives the share of labelled pixels that the network, in evaluation mode, gets right. That
    needs batch-norm statistics of this batch alone, so momentum is set to follow it closely.
    """
    _follow_closely(network)
    images = Normalise(Recipe.mean_rgb, Recipe.std_rgb)(images_nhwc.permute(0, 3, 1, 2).float())
    labels = labels_nhw.long()
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.0)
    accuracy = 0.0
    for step in range(1, most_steps + 1):
        network.train()
        loss = functional.cross_entropy(network(images), labels, ignore_index=UNLABELLED)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step % LOOK_EVERY == 0:
            accuracy = _accuracy(network, images, labels)
            if accuracy >= target:
                break
    return accuracy


@torch.inference_mode()
def _accuracy(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    labelled = labels != UNLABELLED
    right = network.eval()(images).argmax(1)[labelled] == labels[labelled]
    return float(right.float().mean())


def _follow_closely(network: torch.nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.5
