"""The train command: every network, every data set, what it writes, what it refuses."""

import copy
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.shipped import each_network
from support.training_runs import (
    CPU,
    IMAGES,
    PROJECT,
    command,
    losses,
    make_trainer,
    read_recipe,
    rows,
    write_camvid,
    write_recipe,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import DATASETS, Dataset, open_dataset
from segmentation_node.evaluation.frame import Frame
from segmentation_node.labels import CAMVID_11
from segmentation_node.networks import NETWORKS, build_network
from training.augment import Augmentation
from training.checkpoint import load_checkpoint
from training.data import Split, StreamingSplit, open_data
from training.errors import DivergedError, TrainingError
from training.recipe import Recipe, RunOptions
from training.scoring import measure_batch_norm, recompute_batch_norm
from training.state import WINDOW, DivergenceGuard
from training.train import main
from training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

WITH_IMAGES = sorted(name for name in DATASETS if DATASETS[name].splits)
"""Own data is nowhere: test_own_folder.py makes some."""
RECIPES = sorted((PROJECT / "training" / "recipes").rglob("*.yaml"))


def run(recipe_path, root, output, *more):
    """The command in this process: its exit code."""
    return main(command(recipe_path, root, output, *more)[2:])


def images_of(dataset):
    """The data set's folder; skips where this machine has none of its images."""
    if dataset == "street":
        return ""
    folder = IMAGES / dataset
    if not folder.is_dir():
        pytest.skip(f"TRAINING ON {dataset} NOT RUN: no real images of it in {IMAGES}")
    return folder


def two_iterations(network, dataset, folder):
    """The command on real images, in crops that a busy CPU computes quickly."""
    path = write_recipe(
        folder,
        network=network,
        dataset=dataset,
        val_split="",
        batch_size=2,
        crop_size=[64, 96],
        class_weights="none",
    )
    root = images_of(dataset)
    more = ("--data", "stream", "--stop-after", 2, "--limit", 4)
    assert run(path, root, folder / "run", *more) == 0
    weights = load_file(folder / "run" / "weights.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    steps_per_epoch = min(4, len(open_dataset(dataset, str(root), "train"))) // 2
    state = load_checkpoint(folder / "run")["state"]
    assert state["epoch"] * steps_per_epoch + state["step"] == 2


@pytest.mark.parametrize("dataset", WITH_IMAGES)
def test_a_data_set_trains_on_real_images(dataset, tmp_path):
    two_iterations("elu_squeezenet", dataset, tmp_path)


@each_network
def test_a_network_trains_on_real_images(network, tmp_path):
    two_iterations(network, "camvid", tmp_path)


def write_coarse_cityscapes(root):
    """Gray images with a coarse label on the left half: two of train_extra, one of val."""
    ids = np.zeros((64, 96), np.uint8)
    ids[:, :32], ids[:, 32:48] = 7, 26
    for split, count in (("train_extra", 2), ("val", 1)):
        for number in range(count):
            stem = f"aachen/aachen_{number:06d}_000019"
            image = np.repeat(ids[..., None] * 8 + 20, 3, axis=2)
            labels = f"gtCoarse/{split}/{stem}_gtCoarse_labelIds.png"
            for path, content in (
                (f"leftImg8bit/{split}/{stem}_leftImg8bit.png", image),
                (labels, ids),
            ):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(root / path), content)
    return root


def test_cityscapes_coarse_labels_train(tmp_path):
    root = write_coarse_cityscapes(tmp_path / "cityscapes")
    shipped = PROJECT / "training" / "recipes" / "elu_squeezenet_cityscapes_coarse_modern.yaml"
    recipe = yaml.safe_load(shipped.read_text())
    recipe.update(epochs=2, batch_size=2, crop_size=[64, 96], precision="fp32", evaluate_every=1)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert run(path, root, tmp_path / "run") == 0
    assert len(losses(tmp_path / "run")) == 2
    assert rows(tmp_path / "run")[-1]["val_mean_iou"]


# SegNet takes as long as the others together; what it computes is tested in test/networks, too.
@pytest.mark.slow
@pytest.mark.parametrize("dataset", WITH_IMAGES)
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_network_trains_on_every_data_set(network, dataset, tmp_path):
    two_iterations(network, dataset, tmp_path)


class Odd(Dataset):
    """Six samples, of which those in ``broken`` cannot be read."""

    label_set = CAMVID_11
    splits = ("train",)
    broken = frozenset()

    def __init__(self, *_):
        super().__init__("", "train")
        self.notes = ("images/notes.txt: left out, no picture",)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index in self.broken:
            raise DatasetError(f"{index}.png: cut off")
        return Frame(str(index), np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))


def test_broken_pictures_are_named_and_left_out_on_demand(monkeypatch, capsys):
    monkeypatch.setitem(DATASETS, "odd", Odd)
    monkeypatch.setattr(Odd, "broken", {1, 4})
    assert len(open_data("odd", "", "train")) == 6
    assert capsys.readouterr().err == "warning: images/notes.txt: left out, no picture\n"
    sound = copy.copy(open_data("odd", "", "train", skip_broken=True))
    assert [frame.name for frame in sound] == ["0", "2", "3", "5"]
    assert sound.sample_name(1) == "sample 2" and sound.label_set is CAMVID_11
    assert capsys.readouterr().err.splitlines()[1:] == [
        "warning: left out: 1.png: cut off",
        "warning: left out: 4.png: cut off",
    ]
    monkeypatch.setattr(Odd, "broken", set(range(6)))
    with pytest.raises(DatasetError, match=r"nothing of train can be read: 0\.png: cut off"):
        open_data("odd", "", "train", skip_broken=True)


def test_a_missing_file_ends_training_before_it_starts(root, tmp_path):
    mine = shutil.copytree(root, tmp_path / "camvid")
    for path in sorted((mine / "trainannot").iterdir(), key=lambda path: int(path.stem))[-2:]:
        path.unlink()
    with pytest.raises(DatasetError, match=r"no such file, .*first of 2.*--skip-broken"):
        open_data("camvid", str(mine), "train")
    sound = open_data("camvid", str(mine), "train", skip_broken=True)
    assert len(sound) == len(open_data("camvid", str(root), "train")) - 2
    assert open_data("camvid", str(mine), "train", limit=len(sound))  # which reads neither


@pytest.mark.parametrize("place", ["memory", "stream"])
def test_skipping_broken_pictures_is_advised_where_it_helps(place, tmp_path, monkeypatch, capsys):
    def said(*more):
        output = tmp_path / "run"
        assert run(path, "", output, "--data", place, *more) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        return line

    monkeypatch.setitem(DATASETS, "odd", Odd)
    path = write_recipe(tmp_path, dataset="odd", val_split="", class_weights="none")
    monkeypatch.setattr(Odd, "broken", {1, 4})
    assert said().endswith(".png: cut off; --skip-broken leaves such pictures out")
    unlabelled = Frame("0", np.zeros((2, 2, 3), np.uint8), None)
    monkeypatch.setattr(Odd, "__getitem__", lambda self, index: unlabelled)
    assert said() == "error: 0: no pixel is labelled; there is nothing to learn"
    assert said("--skip-broken") == "error: 0: no pixel is labelled; there is nothing to learn"


def test_a_crop_of_one_value_a_channel_is_one_line(root, tmp_path):
    changes = {"network": "fast_elu_squeezenet", "crop_size": [8, 8], "batch_size": 1}
    with pytest.raises(TrainingError, match="does not train on 1 x 8x8 .*; raise crop_size") as one:
        make_trainer(read_recipe(tmp_path, **changes), root, tmp_path / "run", val=False).run()
    assert "\n" not in str(one.value)
    make_trainer(
        read_recipe(tmp_path, **{**changes, "batch_size": 2}), root, tmp_path / "two", val=False
    ).run()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_can_be_read(path):
    assert Recipe.read(path).epochs


def test_a_run_leaves_what_one_wants_to_see(root, tmp_path):
    output = tmp_path / "run"
    assert run(write_recipe(tmp_path, epochs=2), root, output) == 0
    found = {path.name for path in output.iterdir()}
    assert found == {
        *("recipe.yaml", "log.csv", "weights.safetensors", "best.safetensors"),
        *("checkpoint.pt", "overlays", "tensorboard"),
    }
    assert list(rows(output)[0])[:4] == ["epoch", "loss", "val_mean_iou", "elapsed_s"]
    overlays = sorted((output / "overlays").iterdir())
    assert len(overlays) == 8 and cv2.imread(str(overlays[0])).shape == (48, 64, 3)
    board = EventAccumulator(str(output / "tensorboard")).Reload()
    assert len(board.Scalars("train/loss")) == 6 and len(board.Scalars("val/mean_iou")) == 2
    assert Recipe.read(output / "recipe.yaml") == Recipe.read(tmp_path / "recipe_in.yaml")


def test_a_seed_repeats_a_run(root, tmp_path):
    for name in ("one", "two"):
        make_trainer(read_recipe(tmp_path), root, tmp_path / name, val=False).run()
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


OPTIONS = {
    "sgd_poly": {"optimiser": "sgd", "schedule": "poly", "ema_decay": 0.0},
    "constant_sum": {
        "schedule": "constant",
        "loss_reduction": "sum",
        "class_weights": "none",
        "learning_rate": 1.0e-4,
    },
    "caffe_median": {"loss_reduction": "caffe", "class_weights": "median_frequency"},
    "ohem_heads": {"ohem": {"threshold": 0.6}, "auxiliary_heads": {"fires_at_8": 0.4}},
    "bf16": {"precision": "bf16"},
    "color": {"color_jitter": 0.2, "flip": False, "recompute_batch_norm": True},
}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_recipes_options_train(name, root, tmp_path):
    make_trainer(read_recipe(tmp_path, **OPTIONS[name]), root, tmp_path / "run", val=False).run()
    first, *_, last = losses(tmp_path / "run")
    assert last < first
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    assert weights.keys() == build_network("elu_squeezenet", 11, {}).state_dict().keys()


def test_a_larger_network_teaches(root, tmp_path):
    make_trainer(read_recipe(tmp_path, epochs=1), root, tmp_path / "teacher", val=False).run()
    taught = {"distillation": {"teacher": str(tmp_path / "teacher"), "weight": 2.0}}
    trainer = make_trainer(read_recipe(tmp_path, **taught), root, tmp_path / "run", val=False)
    trainer.run()
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


def test_teachers_take_turns(root, tmp_path):
    for seed in (0, 1):
        recipe = read_recipe(tmp_path, epochs=1, seed=seed)
        make_trainer(recipe, root, tmp_path / f"teacher{seed}", val=False).run()

    def losses_taught_by(*names):
        teachers = [str(tmp_path / name) for name in names]
        taught = {"epochs": 1, "distillation": {"teacher": teachers, "weight": 2.0}}
        recipe = read_recipe(tmp_path, **taught)
        run = tmp_path / "-".join(("run", *names))
        make_trainer(recipe, root, run, val=False).run()
        return losses(run)

    by_one, by_other = losses_taught_by("teacher0"), losses_taught_by("teacher1")
    by_both = losses_taught_by("teacher0", "teacher1")
    assert losses_taught_by("teacher0", "teacher0") == by_one
    assert by_both[0] != by_one[0] and by_both[0] != by_other[0]


def test_accumulated_parts_give_the_batchs_losses(root, tmp_path):
    for parts in (1, 4):
        trainer = make_trainer(
            read_recipe(tmp_path), root, tmp_path / str(parts), val=False, accumulate=parts
        )
        trainer.run()
    assert losses(tmp_path / "4") == pytest.approx(losses(tmp_path / "1"), rel=1e-3)


def test_streaming_gives_the_same_run_as_memory(root, tmp_path):
    recipe = read_recipe(tmp_path)
    for kind in (Split, StreamingSplit):
        train = kind(open_dataset("camvid", str(root), "train"), CPU)
        Trainer(recipe, train, None, tmp_path / kind.__name__).run()
    assert losses(tmp_path / "Split") == losses(tmp_path / "StreamingSplit")


class MixedSizes:
    """Two sizes in turn, as in KITTI."""

    def __init__(self, dataset):
        self.dataset, self.label_set = dataset, dataset.label_set
        self.sample_name = dataset.sample_name

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        sample = self.dataset[index]
        height = 48 - 8 * (index % 2)
        image, labels = sample.image_hwc[:height], sample.truth_hw[:height]
        return type(sample)(sample.name, image, labels)


@pytest.mark.parametrize("kind", [Split, StreamingSplit])
def test_images_may_differ_in_size(kind, root, tmp_path):
    train = kind(MixedSizes(open_dataset("camvid", str(root), "train")), CPU)
    Trainer(read_recipe(tmp_path, recompute_batch_norm=True), train, train, tmp_path / "run").run()
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


def test_images_of_one_size_are_augmented_alike_together_and_apart(root):
    split = Split(open_dataset("camvid", str(root), "train"), CPU, limit=4)
    augment = Augmentation((32, 40), (0.5, 2.0), 0.3, 0.2)
    draws = augment.draw(4, torch.Generator().manual_seed(3))
    together = augment.apply(split.images, split.labels, draws)
    apart = augment.apply(list(split.images), list(split.labels), draws)
    torch.testing.assert_close(apart[0], together[0], rtol=1e-4, atol=1e-2)
    assert torch.equal(apart[1], together[1])


def test_batch_norm_statistics_become_the_split_average(root):
    split = Split(open_dataset("camvid", str(root), "train"), CPU, limit=8)
    norm = torch.nn.BatchNorm2d(3)
    network = torch.nn.Sequential(norm, torch.nn.Dropout(0.5))
    recompute_batch_norm(network, torch.nn.Identity(), split, batch_size=4)
    expected = split.images.float().mean(dim=(0, 1, 2))
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-2)
    assert network[1].p == 0.5


def test_a_batch_norm_that_was_added_is_undone_in_training_too(root):
    split = Split(open_dataset("camvid", str(root), "train"), CPU, limit=8)
    images = split.images.permute(0, 3, 1, 2).float()
    norm = torch.nn.BatchNorm2d(3)
    torch.nn.init.uniform_(norm.bias, -50, 50)
    network = torch.nn.Sequential(norm, torch.nn.ReLU())
    before = network.eval()(images)
    measure_batch_norm(network, ["0"], torch.nn.Identity(), split)
    torch.testing.assert_close(network(images), before, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(network.train()(images), before, rtol=1e-3, atol=1e-2)


def test_a_loss_that_is_no_number_stops_the_run(root, tmp_path):
    trainer = make_trainer(read_recipe(tmp_path), root, tmp_path / "run", val=False)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="became nan; lower learning_rate"):
        trainer.run()
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_loss_that_grows_stops_the_run():
    guard = DivergenceGuard(0.1)
    guard.check([2.0] * WINDOW + [15.0] * 3 * WINDOW)
    with pytest.raises(DivergedError, match="grew from 2 to"):
        guard.check(np.full(WINDOW, 30.0).tolist())


REFUSALS = {
    "unknown network": ({"network": "no_net"}, (), "unknown network 'no_net'; known: "),
    "unknown key": ({"learning_rte": 1}, (), "unknown keys ['learning_rte']; known keys are "),
    "text for a number": ({"learning_rate": "1e-8"}, (), "expected float (YAML wants 1.0e-8"),
    "unknown choice": ({"schedule": "cosine"}, (), "expected one of ['one_cycle', 'poly'"),
    "unknown section key": ({"ohem": {"treshold": 1}}, (), "unknown keys ['ohem.treshold']"),
    "unknown head": ({"auxiliary_heads": {"neck": 1.0}}, (), "no modules ['neck']"),
    "few class weights": ({"class_weights": [1.0, 2.0]}, (), "2 class_weights for the"),
    "too few images": ({"batch_size": 64}, (), "more than the 12 training images"),
    "uneven parts": ({}, ("--accumulate", 3), "does not divide into 3 parts"),
    "nothing to resume": ({}, ("--resume",), "no checkpoint to resume from"),
    "no teacher": ({"distillation": {"teacher": "nowhere"}}, (), "nowhere"),
    "no teachers": ({"distillation": {"teacher": []}}, (), "distillation.teacher names no run"),
    "missing split": ({"val_split": "tset"}, (), "unknown split 'tset'"),
}


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_a_mistake_is_one_line(name, root, tmp_path, capsys):
    changes, more, message = REFUSALS[name]
    assert run(write_recipe(tmp_path, **changes), root, tmp_path / "run", *more) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_two_runs_do_not_share_a_folder(root, tmp_path):
    recipe = read_recipe(tmp_path, epochs=1)
    with make_trainer(recipe, root, tmp_path / "run", val=False).folder.alone():
        with pytest.raises(TrainingError, match="run: another run trains in it; choose another"):
            make_trainer(recipe, root, tmp_path / "run", val=False).run()
    assert not (tmp_path / "run" / "log.csv").exists()
    make_trainer(recipe, root, tmp_path / "run", val=False, stop_after=1).run()


def test_classes_that_no_training_image_shows_are_told(root, tmp_path, capsys):
    make_trainer(read_recipe(tmp_path), root, tmp_path / "run", val=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no training image" in line]
    absent = [name for index, name in enumerate(CAMVID_11.names) if index not in (0, 3, 8)]
    assert line.endswith(": " + ", ".join(absent))
    some = [0.0] * 3 + [1.0] * 8
    make_trainer(read_recipe(tmp_path, class_weights=some), root, tmp_path / "run", val=False)
    assert "no training image" not in capsys.readouterr().out


def test_labels_of_no_class_are_refused(tmp_path):
    for path in write_camvid(tmp_path / "camvid").glob("trainannot/*.png"):
        cv2.imwrite(str(path), np.full_like(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), 11))
    with pytest.raises(TrainingError, match="no pixel of the 12 training images is of a class: "):
        make_trainer(read_recipe(tmp_path), tmp_path / "camvid", tmp_path / "run", val=False)


def test_a_folder_with_a_run_is_not_overwritten(root, tmp_path):
    recipe = read_recipe(tmp_path, epochs=1)
    make_trainer(recipe, root, tmp_path / "run", val=False).run()
    with pytest.raises(TrainingError, match="add --resume"):
        make_trainer(recipe, root, tmp_path / "run", val=False).run()


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_losses(root, tmp_path):
    recipe = read_recipe(tmp_path)
    for name, compiled in (("eager", False), ("compiled", True)):
        train = Split(open_dataset("camvid", str(root), "train"), CPU)
        options = RunOptions(compile_network=compiled)
        Trainer(recipe, train, None, tmp_path / name, options).run()
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-3)
