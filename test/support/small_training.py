"""One batch, learned by heart: what the tests of networks and of their exports share."""

import copy
import functools

import torch
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from segmentation_node.networks import build_network

CLASSES = 4
SIZE = (32, 48)
# Steps and learning rate of Adam, enough for seed 0.
SCHEDULES = {
    "elu_squeezenet": (60, 3e-3),
    "enet": (80, 2e-2),
    "fast_elu_squeezenet": (60, 1e-2),
    "fast_relu_squeezenet": (60, 1e-2),
    "segnet": (24, 1e-3),
    "segnet_basic": (40, 5e-3),
}


def coloured_blocks():
    """Two images of blocks in noisy colours, one for each class: (2, 3, H, W) and (2, H, W)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(2, *SIZE, dtype=torch.long)
    labels[:, 14:] = 1
    labels[0, 6:20, 8:22] = 2
    labels[1, 10:26, 24:40] = 2
    labels[0, 20:32, 30:44] = 3
    labels[1, 2:10, 4:16] = 3
    colours = torch.randn(CLASSES, 3, generator=generator)
    noise = torch.randn(2, 3, *SIZE, generator=generator)
    return colours[labels].permute(0, 3, 1, 2) + 0.2 * noise, labels


def learn(network, images, labels, steps, learning_rate):
    """Train on one batch, then set the batch norms' statistics to that batch's, as SegNet does."""
    optimiser = torch.optim.Adam(network.parameters(), learning_rate, fused=True)
    network.train()
    for _ in range(steps):
        loss = functional.cross_entropy(network(images), labels, ignore_index=255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    update_bn([images], network)
    return network.eval()


def accuracy(network, images, labels):
    """Share of labelled pixels of the batch that are right, by the batch's own statistics.

    Running variances are unbiased: of the 4 values that SegNet's coarsest channels have here, a
    third larger than what it was trained with.
    """
    with torch.inference_mode():
        right = with_batch_statistics(network)(images).argmax(dim=1) == labels
    return right[labels != 255].float().mean().item()


def with_batch_statistics(network):
    """A copy in evaluation mode, but for its batch norms."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    return network


@functools.lru_cache(maxsize=None)
def learned(name):
    """A network that knows the coloured blocks by heart; the same one for all tests."""
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    network = build_network(name, CLASSES, {})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would learn other weights
    try:
        return learn(network, *coloured_blocks(), *SCHEDULES[name])
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)  # tests behind this one compare exactly
