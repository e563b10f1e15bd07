"""What every network must do, over ``NETWORKS``: registering enrols. Then their published sizes."""

import copy
import math

import pytest
import torch

from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(64, 96), (61, 47), (17, 16), (1, 1)]
MEAN_RGB, STD_RGB = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    """Not to be changed: SegNet's weights take longer to draw than most tests to run.

    Its batch norms know an image's statistics, or little is left of that behind many ReLUs.
    """
    torch.manual_seed(1)
    built = build_network(name, 5, {}).train()
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        built(noise(2, 3, 64, 96))
    return built.eval()


def noise(*shape, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("height, width", SIZES)
def test_logits_have_exactly_the_images_size(network, height, width):
    with torch.no_grad():
        logits = network(noise(2, 3, height, width))
    assert logits.shape == (2, 5, height, width)
    assert torch.isfinite(logits).all()


def test_a_batch_is_its_images(network):
    images = noise(2, 3, 33, 50)
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_gradient_reaches_every_parameter(network):
    network = copy.deepcopy(network).train()
    network(noise(2, 3, 61, 47)).square().sum().backward()
    unreached = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert unreached == []


def test_weights_saved_and_loaded_give_the_same_network(network, name, tmp_path):
    from safetensors.torch import load_file, save_file

    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other = build_network(name, 5, {}).eval()
    image = noise(1, 3, 33, 50)
    with torch.no_grad():
        assert not torch.equal(other(image), network(image))
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        assert torch.equal(other(image), network(image))


def test_a_seed_fixes_the_initial_weights(name):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build_network(name, 5, {}).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'unet'.*" + ".*".join(sorted(NETWORKS))):
        build_network("unet", 5, {})


def test_an_unknown_option_is_named(name):
    with pytest.raises(ValueError, match=f"{name}.*no_such_option"):
        build_network(name, 5, {"no_such_option": 1})


@pytest.mark.parametrize("classes, parameters", [(19, 1_251_167), (11, 1_074_927)])
def test_elu_squeezenet_has_its_documented_size(classes, parameters):
    network = build_network("elu_squeezenet", classes, {})
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4, 8, 16)])
def test_elu_squeezenet_takes_other_dilations(dilations):
    network = build_network("elu_squeezenet", 5, {"dilations": dilations, "bypass_width": 8})
    assert network(noise(1, 3, 48, 32)).shape == (1, 5, 48, 32)


def test_the_deployed_graph_is_normalise_network_argmax(network):
    """Against plain torch in double precision, so that rounding cannot hide in both."""
    image = torch.randint(0, 256, (2, 45, 70, 3), dtype=torch.uint8)
    graph = DeployGraph(Normalise(MEAN_RGB, STD_RGB), network, with_confidence=True)
    with torch.no_grad():
        class_map, confidence = graph(image)
        normalised = (image.double() - torch.tensor(MEAN_RGB)) / torch.tensor(STD_RGB)
        logits = copy.deepcopy(network).double()(normalised.permute(0, 3, 1, 2))
    assert class_map.dtype == confidence.dtype == torch.uint8
    assert class_map.shape == confidence.shape == (2, 45, 70)
    assert (class_map == logits.argmax(1)).double().mean() >= 0.999
    expected = 255 * logits.softmax(1).amax(1)
    assert (confidence - expected).abs().max() <= 1.0
    assert confidence.unique().numel() > 3


def test_without_confidence_the_deployed_graph_gives_the_same_class_map(network):
    image = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    normalise = Normalise(MEAN_RGB, STD_RGB)
    with torch.no_grad():
        (alone,) = DeployGraph(normalise, network, False)(image)
        class_map, _ = DeployGraph(normalise, network, True)(image)
    assert torch.equal(alone, class_map)


def test_a_certain_network_has_confidence_255():
    class Certain(torch.nn.Module):
        def forward(self, image_nchw):
            logits = torch.zeros(1, 4, *image_nchw.shape[2:])
            logits[:, 2] = 80.0
            logits[:, :, 0, 0] = -math.inf
            logits[:, 1, 0, 0] = -1e30
            return logits

    graph = DeployGraph(Normalise(MEAN_RGB, STD_RGB), Certain(), True)
    class_map, confidence = graph(torch.zeros(1, 4, 4, 3, dtype=torch.uint8))
    assert class_map[0, 0, 0] == 1 and (class_map.flatten()[1:] == 2).all()
    assert (confidence == 255).all()
