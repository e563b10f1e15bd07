"""The published networks written a second time, plainly, from their authors' code: equal logits.

SegNet's prototxts (alexgkendall/SegNet-Tutorial) and ENet's Lua (e-lab/ENet-training) say what
comes after what; the weights are the network's own, in the order in which they are used.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from segmentation_node.networks import build_network

pytestmark = pytest.mark.usefixtures("one_thread")

VGG16 = (2, 2, 3, 3, 3)


def network_and_weights(name, **options):
    """In training mode, so that batch norms are those of the batch; without dropout."""
    torch.manual_seed(0)
    network = build_network(name, 5, options).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network, iter([parameter.detach() for parameter in network.parameters()])


def assert_same(network, image, plain):
    with torch.no_grad():
        expected, found = plain(image), network(image)
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * largest)


def norm(features, weights, epsilon):
    return f.batch_norm(features, None, None, next(weights), next(weights), True, 0.0, epsilon)


def convolution(features, weights, **more):
    weight, bias = next(weights), next(weights)
    return f.conv2d(features, weight, bias, padding=weight.shape[2] // 2, **more)


def plain_segnet(weights, depths, relu_in_decoder, image):
    features, masks = image, []
    for depth in depths:
        for _ in range(depth):
            features = f.relu(norm(convolution(features, weights), weights, 1e-5))
        size = features.shape[2:]
        features, mask = f.max_pool2d(features, 2, 2, ceil_mode=True, return_indices=True)
        masks.append((mask, size))
    for index, depth in enumerate(reversed(depths)):
        mask, size = masks.pop()
        features = f.max_unpool2d(features, mask, 2, 2, output_size=size)
        # SegNet's very last convolution is the classifier.
        is_last = relu_in_decoder and index == len(depths) - 1
        for _ in range(depth - is_last):
            features = norm(convolution(features, weights), weights, 1e-5)
            features = f.relu(features) if relu_in_decoder else features
    return convolution(features, weights)


def test_segnet_is_its_prototxt():
    network, weights = network_and_weights("segnet", narrow=8)
    assert_same(network, torch.randn(2, 3, 90, 60), partial(plain_segnet, weights, VGG16, True))


def test_segnet_basic_is_its_prototxt():
    network, weights = network_and_weights("segnet_basic", narrow=8)

    def plain(image):
        evened_out = f.local_response_norm(image, 5, alpha=1e-4, beta=0.75)
        return plain_segnet(weights, (1, 1, 1, 1), False, evened_out)

    assert_same(network, 255 * torch.rand(2, 3, 90, 60), plain)


class PlainENet:
    """``middle`` of a bottleneck: its dilation, or "asymmetric"."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, image):
        beside = convolution(image, self.weights, stride=2), f.max_pool2d(image, 2)
        features = self.prelu(self.norm(torch.cat(beside, dim=1)))
        features, to_2 = self.down(features)
        for _ in range(4):
            features = self.bottleneck(features, 1)
        features, to_4 = self.down(features)
        for middle in (1, 2, "asymmetric", 4, 1, 8, "asymmetric", 16) * 2:
            features = self.bottleneck(features, middle)
        for mask, count in ((to_4, 2), (to_2, 1)):
            features = self.up(features, mask)
            for _ in range(count):
                features = self.bottleneck(features, 1, f.relu)
        return f.conv_transpose2d(features, next(self.weights), next(self.weights), stride=2)

    def norm(self, features):
        return norm(features, self.weights, 1e-3)

    def prelu(self, features):
        return f.prelu(features, next(self.weights))

    def without_bias(self, features, **more):
        return f.conv2d(features, next(self.weights), **more)

    def branch(self, features, middle, activation, stride=1):
        features = activation(self.norm(self.without_bias(features, stride=stride)))
        if middle == "asymmetric":
            features = self.without_bias(features, padding=(0, 2))
            features = f.conv2d(features, next(self.weights), next(self.weights), padding=(2, 0))
        elif middle == "up":
            more = {"stride": 2, "padding": 1, "output_padding": 1}
            features = f.conv_transpose2d(features, next(self.weights), next(self.weights), **more)
        else:
            more = {"padding": middle, "dilation": middle}
            features = f.conv2d(features, next(self.weights), next(self.weights), **more)
        return self.norm(self.without_bias(activation(self.norm(features))))

    def bottleneck(self, features, middle, activation=None):
        activation = activation or self.prelu
        return activation(features + self.branch(features, middle, activation))

    def down(self, features):
        branch = self.branch(features, 1, self.prelu, stride=2)
        pooled, mask = f.max_pool2d(features, 2, return_indices=True)
        new = branch.shape[1] - pooled.shape[1]
        return self.prelu(branch + f.pad(pooled, (0, 0, 0, 0, 0, new))), mask

    def up(self, features, mask):
        branch = self.branch(features, "up", f.relu)
        shortcut = self.norm(self.without_bias(features))
        return f.relu(branch + f.max_unpool2d(shortcut, mask, 2))


def test_enet_is_its_lua_code():
    network, weights = network_and_weights("enet")
    assert_same(network, torch.randn(2, 3, 64, 96), PlainENet(weights))
    assert not list(weights)
