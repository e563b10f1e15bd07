"""Trunks in torchvision's naming: what matches, what does not, and what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segmentation_node.networks import build_network
from training.errors import RecipeError, TrainingError
from training.pretrained import SQUEEZENET_FIRES, VGG16, VGG16_BN, load_trunk
from training.recipe import Recipe
from training.state import TrainingState

VGG_WIDTHS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
# (squeeze, expand) of SqueezeNet 1.1 by index in torchvision's `features`.
FIRES = {3: (16, 64), 4: (16, 64), 6: (32, 128), 7: (32, 128)}
FIRES.update({9: (48, 192), 10: (48, 192), 11: (64, 256), 12: (64, 256)})


def conv(tensors, name, out_channels, in_channels, kernel):
    tensors[f"{name}.weight"] = torch.randn(out_channels, in_channels, kernel, kernel)
    tensors[f"{name}.bias"] = torch.randn(out_channels)


def vgg16(batch_norm):
    """A file like torchvision's, with random values and a classifier of no interest here."""
    tensors, in_channels = {"classifier.6.bias": torch.zeros(1000)}, 3
    for indices, widths in zip(VGG16_BN if batch_norm else VGG16, VGG_WIDTHS):
        for index, width in zip(indices, widths):
            conv(tensors, f"features.{index}", width, in_channels, 3)
            if batch_norm:
                for kind in ("weight", "bias", "running_mean", "running_var"):
                    tensors[f"features.{index + 1}.{kind}"] = torch.rand(width)
                tensors[f"features.{index + 1}.num_batches_tracked"] = torch.tensor(7)
            in_channels = width
    return tensors


def squeezenet():
    tensors, in_channels = {"classifier.1.bias": torch.zeros(1000)}, 64
    conv(tensors, "features.0", 64, 3, 3)
    for index, (squeeze, expand) in FIRES.items():
        conv(tensors, f"features.{index}.squeeze", squeeze, in_channels, 1)
        conv(tensors, f"features.{index}.expand1x1", expand, squeeze, 1)
        conv(tensors, f"features.{index}.expand3x3", expand, squeeze, 3)
        in_channels = 2 * expand
    return tensors


@pytest.fixture(params=["safetensors", "pth"])
def saved(request, tmp_path):
    def save(tensors):
        path = tmp_path / f"trunk.{request.param}"
        if request.param == "safetensors":
            save_file(tensors, path)
        else:
            torch.save(tensors, path)
        return path

    return save


def assert_loaded(network, tensors, report):
    own = network.state_dict()
    for name, source in report.matched.items():
        assert torch.equal(own[name], tensors[source]), name
    assert set(report.matched) | set(report.fresh) == set(own)
    assert set(report.matched.values()) | set(report.unused) == set(tensors)


@pytest.mark.parametrize("batch_norm, loaded", [(False, 26), (True, 78)])
def test_segnet_takes_vgg16(saved, batch_norm, loaded):
    network, tensors = build_network("segnet", 3, {}), vgg16(batch_norm)
    report = load_trunk(network, saved(tensors))
    assert report.trunk == ("vgg16_bn" if batch_norm else "vgg16")
    assert len(report.matched) == loaded
    assert "classifier.6.bias" in report.unused
    assert_loaded(network, tensors, report)
    assert all(name.startswith("encoder.") for name in report.matched)
    assert f"{loaded} tensors loaded" in str(report)


@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": True, "dilate_last": True}, {"decoder_batch_norm": True}]
)
def test_elu_squeezenet_takes_squeezenet(saved, options):
    network, tensors = build_network("elu_squeezenet", 3, options), squeezenet()
    report = load_trunk(network, saved(tensors))
    assert report.trunk == "squeezenet1_1"
    assert len(report.matched) == 2 + 8 * 6
    assert report.unused == ["classifier.1.bias"]
    assert_loaded(network, tensors, report)


@pytest.mark.parametrize(
    "name, activation",
    [("elu_squeezenet", nn.functional.elu), ("fast_relu_squeezenet", nn.functional.relu)],
)
def test_a_loaded_trunk_computes_what_the_file_says(saved, name, activation):
    """The first fire module, against one written down with the file's names."""
    network, tensors = build_network(name, 3, {}).eval(), squeezenet()
    load_trunk(network, saved(tensors))
    features = torch.randn(1, 64, 5, 6)

    def apply(name, values, padding=0):
        weight, bias = (tensors[f"features.3.{name}.{kind}"] for kind in ("weight", "bias"))
        return activation(nn.functional.conv2d(values, weight, bias, padding=padding))

    squeezed = apply("squeeze", features)
    expected = torch.cat((apply("expand1x1", squeezed), apply("expand3x3", squeezed, 1)), dim=1)
    with torch.inference_mode():
        found = network.fires_at_4[0](features)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_table_of_fires_covers_every_index():
    assert [index for group in SQUEEZENET_FIRES.values() for index in group] == sorted(FIRES)


FITTED = {"widths": [64, 128, 256, 384], "dilations_at_8": [1, 1], "fires_at_16": 2}
FITTED.update(squeeze=8, residual=False)


def test_the_improved_variant_computes_the_fires_that_it_has(saved):
    """Against the paper's network, whose trunk has no batch norm, after both poolings and fires."""
    path, image = saved(squeezenet()), torch.randn(2, 3, 64, 48)
    seen = []
    for name, options in {"elu_squeezenet": {}, "fast_elu_squeezenet": FITTED}.items():
        network = build_network(name, 3, options).eval()
        report = load_trunk(network, path)
        network.fires_at_16[1].register_forward_hook(lambda *values: seen.append(values[-1]))
        with torch.inference_mode():
            network(image)
    expected, found = seen
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    assert "features.12.squeeze.bias" in report.unused
    assert len(report.norms) == 1 + 6 * 2
    assert report.matched["fires_at_8.1.squeeze_norm.bias"] == "features.7.squeeze.bias"


def test_the_improved_variant_of_another_shape_is_refused(saved):
    network = build_network("fast_elu_squeezenet", 3, {})
    with pytest.raises(ValueError, match=r"features.0.weight is \(64.*nothing was loaded"):
        load_trunk(network, saved(squeezenet()))


def test_a_bias_of_another_shape_is_refused_before_anything_is_loaded(saved):
    network, tensors = build_network("fast_elu_squeezenet", 3, FITTED), squeezenet()
    tensors["features.7.expand1x1.bias"] = torch.zeros(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"features.7.expand1x1.bias \+ .* is \(130,\).*nothing"):
        load_trunk(network, saved(tensors))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_another_shape_is_refused_and_nothing_is_loaded(saved):
    network, tensors = build_network("elu_squeezenet", 3, {}), squeezenet()
    tensors["features.12.expand3x3.weight"] = torch.zeros(256, 64, 1, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    path = saved(tensors)
    with pytest.raises(ValueError) as refusal:
        load_trunk(network, path)
    assert str(refusal.value) == (
        f"{path}: features.12.expand3x3.weight is (256, 64, 1, 1), but the network's "
        "fires_at_16.3.expand3.weight is (256, 64, 3, 3); nothing was loaded"
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_another_networks_file_is_refused(saved):
    path = saved(squeezenet())
    with pytest.raises(ValueError, match=r"vgg16_bn \(features.1.weight is missing\) or vgg16"):
        load_trunk(build_network("segnet", 3, {}), path)


@pytest.mark.parametrize("name", ["enet", "segnet_basic"])
def test_a_network_without_a_trunk_says_which_have_one(saved, name):
    with pytest.raises(ValueError, match="has no pre-trained trunk; SegNet takes vgg16"):
        load_trunk(build_network(name, 3, {}), saved(squeezenet()))


class Planted:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("content", [Planted(), {"features.0.weight": Planted()}])
def test_code_in_a_file_is_not_run(tmp_path, capsys, content):
    path = tmp_path / "trunk.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="not a state dict of tensors alone") as refusal:
        load_trunk(build_network("elu_squeezenet", 3, {}), path)
    assert "\n" not in str(refusal.value)
    assert "weights_only" not in str(refusal.value)  # nor advised to be run
    assert "unpickled" not in capsys.readouterr().out


INTEGERS = pickle.dumps([1, 2])


@pytest.mark.parametrize("file_name", ["trunk.safetensors", "trunk.pth"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"hello world", INTEGERS])
def test_other_files_are_refused_in_one_line(tmp_path, file_name, content):
    path = tmp_path / file_name
    path.write_bytes(content)
    with pytest.raises(ValueError) as refusal:
        load_trunk(build_network("elu_squeezenet", 3, {}), path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_checkpoint_with_more_than_tensors_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": squeezenet()}, path)
    with pytest.raises(ValueError, match="expected a flat state dict"):
        load_trunk(build_network("elu_squeezenet", 3, {}), path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="trunk.pth: no such file"):
        load_trunk(build_network("elu_squeezenet", 3, {}), tmp_path / "trunk.pth")


def start(trunk, **more):
    recipe = Recipe(
        network="elu_squeezenet",
        dataset="camvid",
        epochs=1,
        crop_size=(32, 32),
        trunk=str(trunk),
        **more,
    )
    return TrainingState(recipe, 11, 1, torch.device("cpu"))


def test_a_recipes_trunk_is_what_training_starts_from(saved, capsys):
    tensors = squeezenet()
    state = start(saved(tensors))
    started = state.model.network.stem[0].weight
    assert torch.equal(started, tensors["features.0.weight"])
    assert torch.equal(state.result.stem[0].weight, started)
    assert "squeezenet1_1: 50 tensors loaded" in capsys.readouterr().out


@pytest.mark.parametrize("schedule", ["one_cycle", "poly", "constant"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_trunk_has_a_rate_of_its_own(saved, schedule, optimiser):
    more = {"trunk_rate": 0.1, "schedule": schedule, "optimiser": optimiser}
    state = start(saved(squeezenet()), **more)
    rest, trunk = state.optimiser.param_groups
    assert len(trunk["params"]) == 50
    assert len(rest["params"]) == len(list(state.model.parameters())) - 50
    assert trunk["lr"] == pytest.approx(0.1 * rest["lr"])
    assert state.learning_rate == rest["lr"]


def test_a_trunk_at_rate_zero_stays_as_it_came(saved):
    tensors = squeezenet()
    state = start(saved(tensors), trunk_rate=0.0)
    sum(parameter.sum() for parameter in state.model.parameters()).backward()
    state.optimiser.step()
    assert torch.equal(state.model.network.stem[0].weight, tensors["features.0.weight"])


@pytest.mark.parametrize("trunk, rate, reason", [("", 0.1, "no trunk"), ("file", 1.5, "not in")])
def test_a_rate_of_the_trunk_that_cannot_be_is_refused(trunk, rate, reason):
    with pytest.raises(RecipeError, match=f"trunk_rate.*{reason}"):
        Recipe(
            network="elu_squeezenet",
            dataset="camvid",
            epochs=1,
            crop_size=(32, 32),
            trunk=trunk,
            trunk_rate=rate,
        )


def test_a_recipes_trunk_that_is_not_there_stops_training(tmp_path):
    with pytest.raises(TrainingError, match="nowhere.pth"):
        start(tmp_path / "nowhere.pth")
