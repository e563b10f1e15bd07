"""A narrow network that starts with the channels of a wide one that weigh most."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segmentation_node.networks import build_network
from training.errors import RecipeError, TrainingError
from training.recipe import Recipe
from training.state import TrainingState

CLASSES = 5
WIDE = {
    "widths": [16, 32, 32, 64],
    "dilations_at_8": [1, 2],
    "fires_at_16": 2,
    "context_width": 16,
    "decoder_widths": [16, 8],
}
NARROW = {
    **WIDE,
    "widths": [12, 24, 24, 48],
    "context_width": 12,
    "decoder_widths": [12, 6],
}
EMPTY = slice(1, None, 4)
"""Channels of every layer of the wide network that are zero: as many as the narrow one lacks."""


@pytest.fixture
def wide():
    torch.manual_seed(0)
    network = build_network("fast_elu_squeezenet", CLASSES, WIDE)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor[EMPTY] = 0
            if isinstance(module, nn.Conv2d) and module is not network.classifier:
                module.weight[EMPTY] = 0
    return network.eval()


def recipe_of(network="fast_elu_squeezenet", options=WIDE, **more):
    return Recipe(
        network=network,
        network_options=options,
        dataset="camvid",
        epochs=1,
        crop_size=(32, 32),
        **more,
    )


@pytest.fixture
def weights(wide, tmp_path):
    """Those of a run whose recipe lies beside them."""
    recipe_of().write(tmp_path / "recipe.yaml")
    path = tmp_path / "weights.safetensors"
    save_file(wide.state_dict(), path)
    return path


def started(weights, options=NARROW, classes=CLASSES, network="fast_elu_squeezenet"):
    recipe = recipe_of(network, options, start_weights=str(weights), narrow_start=True)
    return TrainingState(recipe, classes, 1, torch.device("cpu")).result.eval()


def test_what_weighs_nothing_goes_first(wide, weights, capsys):
    """Concatenated, summed and dilated layers included: the function stays."""
    image = torch.randn(1, 3, 75, 90)
    found = started(weights)
    with torch.inference_mode():
        torch.testing.assert_close(found(image), wide(image), rtol=1e-4, atol=1e-4)
    assert "tensors loaded, 0 fresh" in capsys.readouterr().out


def test_a_classifier_of_other_classes_is_fresh(wide, weights, capsys):
    found = started(weights, classes=CLASSES + 2)
    assert "2 fresh (classifier.weight, classifier.bias)" in capsys.readouterr().out
    assert torch.equal(
        found.stem[0].weight, wide.stem[0].weight[[0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15]]
    )


@pytest.mark.parametrize(
    "options, reason",
    [
        (
            {**NARROW, "widths": [24, 24, 24, 48]},
            "stem.0.weight is (16, 3, 3, 3), but the network's",
        ),
        ({**NARROW, "fires_at_16": 1}, "weights of another network"),
    ],
)
def test_what_is_not_narrower_is_refused_in_one_line(weights, options, reason):
    with pytest.raises(TrainingError) as refused:
        started(weights, options)
    assert str(refused.value).startswith(f"{weights}: {reason}")
    assert "\n" not in str(refused.value)


def test_weights_that_do_not_say_how_wide_they_are_are_refused(weights):
    (weights.parent / "recipe.yaml").unlink()
    with pytest.raises(TrainingError, match="neither recipe.yaml nor model.yaml beside it says"):
        started(weights)


@pytest.mark.parametrize(
    "beside, reason",
    [
        (NARROW, "stem.0.weight is .16, 3, 3, 3., but the network's"),
        (
            {**WIDE, "fires_at_16": 3},
            "another network, which does not share fires_at_16",
        ),
    ],
)
def test_weights_of_another_network_than_their_recipe_says_are_refused(weights, beside, reason):
    recipe_of(options=beside).write(weights.parent / "recipe.yaml")
    with pytest.raises(TrainingError, match=reason):
        started(weights)


def test_a_network_that_unpools_is_refused(tmp_path):
    """Its decoder's channels belong to its encoder's, which no trace shows."""
    path = tmp_path / "weights.safetensors"
    recipe_of("segnet_basic", {"narrow": 8}).write(tmp_path / "recipe.yaml")
    save_file(build_network("segnet_basic", CLASSES, {"narrow": 8}).state_dict(), path)
    with pytest.raises(TrainingError, match="SegNetBasic unpools .* train the narrow one first"):
        started(path, {"narrow": 16}, network="segnet_basic")


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({}, "narrow_start is set, but there are no start_weights"),
        ({"widen_start": True, "start_weights": "x"}, "exclude each other"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(settings, reason):
    with pytest.raises(RecipeError, match=reason):
        recipe_of(narrow_start=True, **settings)
