"""A run that goes on from the weights of another, or of a model."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from segmentation_node.networks import build_network
from training.errors import RecipeError, TrainingError
from training.recipe import Recipe
from training.state import TrainingState


def started(path, network="fast_elu_squeezenet", classes=11, **more):
    recipe = Recipe(
        network=network,
        dataset="camvid",
        epochs=1,
        crop_size=(32, 32),
        start_weights=str(path),
        **more,
    )
    return TrainingState(recipe, classes, 1, torch.device("cpu"))


@pytest.fixture
def run_weights(tmp_path):
    """Weights of a network of 11 classes; none is what another seed would give."""
    path = tmp_path / "weights.safetensors"
    network = build_network("fast_elu_squeezenet", 11, {})
    save_file({name: value + 1 for name, value in network.state_dict().items()}, path)
    return path


def test_a_run_goes_on_from_weights(run_weights, capsys):
    state = started(run_weights)
    expected = load_file(run_weights)
    for network in (state.model.network, state.result):
        found = network.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert f"{run_weights}: {len(expected)} tensors loaded, 0 fresh" in capsys.readouterr().out


def test_another_label_set_keeps_all_but_the_classifier(run_weights, capsys):
    found = started(run_weights, classes=5).model.network.state_dict()
    expected = load_file(run_weights)
    fresh = [name for name in found if found[name].shape != expected[name].shape]
    assert fresh and all("classifier" in name for name in fresh)
    assert all(torch.equal(found[name], expected[name]) for name in found if name not in fresh)
    assert f"2 fresh ({', '.join(fresh)})" in capsys.readouterr().out


def test_weights_of_another_network_stop_training(run_weights):
    with pytest.raises(TrainingError, match="another network, .*network_options must") as refusal:
        started(run_weights, "enet")
    assert "\n" not in str(refusal.value)


def test_weights_of_another_width_stop_training(run_weights):
    tensors = load_file(run_weights)
    name = next(name for name in tensors if name.startswith("stem") and tensors[name].dim() == 4)
    tensors[name] = tensors[name][:1]
    save_file(tensors, run_weights)
    with pytest.raises(TrainingError, match=f"{name} is .* nothing was loaded; .*network_options"):
        started(run_weights)


def test_a_run_starts_from_one_file(run_weights):
    with pytest.raises(RecipeError, match="trunk and start_weights exclude each other"):
        started(run_weights, trunk=str(run_weights))


def test_tensors_by_number_are_refused(tmp_path):
    path = tmp_path / "numbered.pth"
    torch.save({0: torch.ones(2)}, path)
    with pytest.raises(TrainingError, match="expected a flat state dict {name: tensor}"):
        started(path)
