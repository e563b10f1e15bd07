"""What every network promises, its published figures, and ELU-SqueezeNet's options."""

import numpy as np
import pytest
import torch
from support import small_training
from support.shipped import each_network
from torch.nn import functional

from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.networks.deploy import Normalise
from segmentation_node.networks.segnet_basic import local_response_norm
from training.summary import count_macs, count_parameters, layer_table, meta_network, summarise

# research/networks.md: network, classes, options, parameters, GMAC by (height, width).
PUBLISHED = [
    ("segnet", 11, {}, 29.449e6, {(360, 480): 106.7, (256, 512): 80.8, (128, 256): 20.2}),
    ("segnet_basic", 11, {}, 1.417e6, {(360, 480): 59.2}),
    ("enet", 19, {}, 0.364e6, {(360, 640): 1.72}),
    ("elu_squeezenet", 19, {}, 1.25e6, {(320, 480): 3.06, (360, 640): 4.69, (720, 1280): 18.4}),
    # Its own figures, so that a change is seen.
    ("fast_elu_squeezenet", 11, {}, 0.885e6, {(360, 640): 1.578}),
    ("fast_relu_squeezenet", 11, {}, 0.522e6, {(360, 640): 1.45}),
    (
        "elu_squeezenet",
        19,
        {"decoder_widths": (128, 64, 32, 16)},
        3.55e6,
        {(320, 480): 4.3, (360, 640): 6.6, (720, 1280): 25.9},
    ),
]
OPTIONS = [
    {"residual": True},
    {"decoder_widths": (32, 24, 16, 8)},
    {"batch_norm": True},
    {"dilate_last": True},
    {"decoder_batch_norm": True},
    {"residual": True, "decoder_widths": (24, 16, 8), "batch_norm": True, "dilate_last": True},
]
each_name = pytest.mark.parametrize("name", sorted(NETWORKS))
each_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o))


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name, classes, options, parameters, gmacs", PUBLISHED)
def test_published_figures(name, classes, options, parameters, gmacs):
    network = meta_network(name, classes, options)
    assert count_parameters(network) == pytest.approx(parameters, rel=0.002)
    for size, gmac in gmacs.items():
        # 360 rows are 368 to ELU-SqueezeNet, which pads to multiples of 16.
        assert count_macs(network, size) / 1e9 == pytest.approx(gmac, rel=0.004), size


@each_name
def test_channels_last_changes_nothing(name):
    network = build_network(name, 3, {}).eval()
    image = torch.randn(1, 3, 33, 40)
    with torch.inference_mode():
        expected = network(image)
        network.to(memory_format=torch.channels_last)
        found = network(image.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@each_network
def test_one_batch_is_learned_by_heart(network):
    learned = small_training.learned(network)
    assert small_training.accuracy(learned, *small_training.coloured_blocks()) >= 0.99


@pytest.mark.slow
@pytest.mark.timeout(1800)
@each_name
def test_two_street_frames_are_learned_by_heart(name):
    dataset = open_dataset("street", "", "val")
    middle = slice(136, 224), slice(240, 400)
    samples = [dataset[index] for index in (0, 20)]
    images = [sample.image_hwc[middle] for sample in samples]
    labels = [sample.truth_hw[middle] for sample in samples]
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    images = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))(images)
    labels = torch.from_numpy(np.stack(labels)).long()
    steps, rate = {
        "elu_squeezenet": (600, 2e-3),
        "enet": (700, 1e-2),
        "fast_elu_squeezenet": (700, 5e-3),
        "fast_relu_squeezenet": (700, 5e-3),
        "segnet": (100, 1e-3),
        "segnet_basic": (150, 5e-3),
    }[name]
    torch.set_flush_denormal(True)
    network = build_network(name, len(dataset.label_set), {})
    small_training.learn(network, images, labels, steps, rate)
    torch.set_flush_denormal(False)
    assert small_training.accuracy(network, images, labels) >= 0.99


def test_segnet_at_480x360_pools_as_published():
    outputs = {
        layer.name: layer.output
        for layer in summarise(meta_network("segnet", 11, {}), [(360, 480)])
    }
    assert outputs["encoder.4.2.conv"][2:] == (23, 30)
    assert outputs["decoder.0.0.conv"][2:] == (23, 30)
    assert outputs["decoder.1.0.conv"][2:] == (45, 60)
    assert outputs["classifier"] == (1, 11, 360, 480)


def test_local_response_norm_is_torchs():
    image = torch.rand(2, 3, 5, 7) * 255
    expected = functional.local_response_norm(image, 5, alpha=1e-4, beta=0.75)
    assert torch.allclose(local_response_norm(image), expected, rtol=1e-5)
    white = torch.full((1, 3, 1, 1), 255.0)
    in_half = local_response_norm(white.half()).float()
    assert torch.allclose(in_half, local_response_norm(white), rtol=2e-3)


@each_option
def test_options_work_at_odd_sizes_and_learn(options):
    network = build_network("elu_squeezenet", 3, options).train()
    logits = network(torch.randn(2, 3, 37, 61))
    assert logits.shape == (2, 3, 37, 61)
    functional.cross_entropy(logits, torch.randint(3, (2, 37, 61))).backward()
    lacking = [n for n, p in network.named_parameters() if p.grad is None]
    assert lacking == []


@each_option
def test_options_change_the_network_and_are_off_by_default(options):
    def output(**chosen):
        torch.manual_seed(0)
        with torch.inference_mode():
            return build_network("elu_squeezenet", 3, chosen).eval()(torch.ones(1, 3, 32, 48))

    off = {"residual": False, "decoder_widths": (), "batch_norm": False, "dilate_last": False}
    assert torch.equal(output(), output(**off))
    # A batch norm alone changes nothing until it has seen images.
    if options not in ({"batch_norm": True}, {"decoder_batch_norm": True}):
        assert not torch.equal(output(), output(**options))


def test_residuals_join_fires_of_equal_width_and_cost_nothing():
    plain = build_network("elu_squeezenet", 3, {})
    residual = build_network("elu_squeezenet", 3, {"residual": True})
    fires = [m.is_residual for m in residual.modules() if hasattr(m, "is_residual")]
    assert fires == [False, True, False, True, False, True, False, True]
    assert count_parameters(residual) == count_parameters(plain)
    assert residual.state_dict().keys() == plain.state_dict().keys()


def test_dilation_in_place_of_the_last_pool_keeps_stride_8():
    network = meta_network("elu_squeezenet", 3, {"dilate_last": True})
    outputs = {layer.name: layer.output for layer in summarise(network, [(64, 96)])}
    assert outputs["context.0"][2:] == (8, 12)
    assert [branch.dilation[0] for branch in network.context] == [2, 4, 8, 16]
    assert network.fires_at_16[0].expand3.dilation == (2, 2)


def test_wrong_number_of_decoder_widths_is_refused():
    with pytest.raises(ValueError, match="decoder_widths has 3 values; expected 4"):
        build_network("elu_squeezenet", 3, {"decoder_widths": (8, 8, 8)})


@each_name
def test_summary_adds_up(name):
    network, sizes = meta_network(name, 7, {}), [(64, 96), (128, 96)]
    layers = summarise(network, sizes)
    assert sum(layer.parameters for layer in layers) == count_parameters(network)
    for index, size in enumerate(sizes):
        assert sum(layer.macs[index] for layer in layers) == count_macs(network, size)
    text = layer_table(layers, sizes)
    assert "MMAC 128x96" in text
    assert f"{count_parameters(network):,}" in text.splitlines()[-1]
