"""A wide network that starts as a narrow one's function."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from segmentation_node.errors import NetworkError
from segmentation_node.networks import build_network
from training.errors import RecipeError, TrainingError
from training.recipe import Recipe
from training.state import TrainingState
from training.widen import widened

CLASSES = 5


def a_narrow(name):
    """An eighth of a network whose batch norms have statistics and factors of their own."""
    torch.manual_seed(0)
    network = build_network(name, CLASSES, {"narrow": 8})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    for _ in range(3):
        network(torch.randn(2, 3, 64, 96))
    return network.eval()


@pytest.fixture(scope="module")
def narrow():
    return a_narrow("segnet")


@pytest.fixture
def weights(narrow, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(narrow.state_dict(), path)
    return path


def started(weights, classes=CLASSES, **changes):
    settings = {"widen_start": True, "network_options": {"narrow": 4}, **changes}
    recipe = Recipe(
        network="segnet",
        dataset="camvid",
        epochs=1,
        crop_size=(32, 32),
        start_weights=str(weights),
        **settings,
    )
    return TrainingState(recipe, classes, 1, torch.device("cpu"))


@pytest.mark.parametrize("divisor", [4, 2])
@pytest.mark.parametrize("name", ["segnet", "segnet_basic"])
def test_the_wide_network_gives_the_narrow_ones_scores(name, divisor):
    """Pooling indices and odd sizes included."""
    narrow = a_narrow(name)
    wide = build_network(name, CLASSES, {"narrow": divisor}).eval()
    wide.load_state_dict(widened(wide, narrow.state_dict()))
    image = torch.randn(1, 3, 75, 90)
    with torch.inference_mode():
        torch.testing.assert_close(wide(image), narrow(image), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("classes", [2 * CLASSES, CLASSES + 2])
def test_a_classifier_of_other_classes_is_fresh(weights, classes, capsys):
    found = started(weights, classes=classes).model.network
    assert "2 fresh (classifier.weight, classifier.bias)" in capsys.readouterr().out
    assert not found.classifier.bias.any()


def test_copies_of_a_channel_learn_different_things(narrow):
    wide = build_network("segnet", CLASSES, {"narrow": 4})
    wide.load_state_dict(widened(wide, narrow.state_dict()))
    labels = torch.randint(0, CLASSES, (1, 64, 96))
    functional.cross_entropy(wide(torch.randn(1, 3, 64, 96)), labels).backward()
    gradient = wide.encoder[1][0].conv.weight.grad
    assert gradient is not None
    difference = (gradient[0::2] - gradient[1::2]).abs().mean()
    assert difference > 0.05 * gradient.abs().mean()


def test_a_run_starts_with_the_narrow_networks_function(narrow, weights, capsys):
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        found = started(weights).result.eval()(image)
        torch.testing.assert_close(found, narrow(image), rtol=1e-3, atol=1e-3)
    assert "tensors loaded, 0 fresh" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"network_options": {"narrow": 16}}, "encoder.0.0.conv.weight is (8, 3, 3, 3), which no"),
        ({"widen_start": False}, "encoder.0.0.conv.weight is (8, 3, 3, 3), but the network's"),
    ],
)
def test_another_width_is_refused_in_one_line(weights, changes, reason):
    with pytest.raises(TrainingError) as refused:
        started(weights, **changes)
    assert str(refused.value).startswith(f"{weights}: {reason}")
    assert "\n" not in str(refused.value)


def test_layers_it_is_not_written_for_are_refused():
    narrow, wide = nn.ConvTranspose2d(2, 2, 2), nn.ConvTranspose2d(4, 4, 2)
    with pytest.raises(ValueError, match="a ConvTranspose2d is not widened"):
        widened(wide, narrow.state_dict())


def test_nothing_is_widened_without_start_weights():
    with pytest.raises(RecipeError, match="widen_start is set, but there are no start_weights"):
        started("")


@pytest.mark.parametrize("divisor", [0, 3, 128])
@pytest.mark.parametrize("name", ["segnet", "segnet_basic"])
def test_a_width_that_is_no_divisor_is_refused(name, divisor):
    with pytest.raises(NetworkError, match=f"narrow is {divisor}; expected a divisor of 64"):
        build_network(name, CLASSES, {"narrow": divisor})
