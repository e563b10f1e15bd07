"""What cannot be used is one line: recipes, checkpoints, options, and places to write to."""

import contextlib
import copy
import random
import resource
from pathlib import Path

import pytest
import torch
import yaml
from support.training_runs import CPU, command, recipe, write_camvid, write_recipe

from training import add_variants, box_score, curves, export, study, summary, train
from training.checkpoint import CHECKPOINT_FILE
from training.distributed import Group
from training.errors import RecipeError, TrainingError
from training.recipe import Recipe
from training.run_folder import RunFolder
from training.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")

WRONG_TYPES = {
    "std_rgb": ("x", "expected a list"),
    "mean_rgb": ([1.0, 2.0], "expected 3 values"),
    "crop_size": ("text", "expected a list"),
    "dataset": (["camvid"], "(list); expected str"),
    "network": (None, "(NoneType); expected str"),
    "network_options": ([1], "(list); expected dict"),
    "epochs": (1.5, "(float); expected int"),
    "batch_size": (True, "(bool); expected int"),
    "seed": (2**40, "expected less than"),
    "flip": ("yes please", "(str); expected bool"),
    "learning_rate": (float("nan"), "expected a finite number"),
    "ohem": ([1], "ohem is [1] (list); expected a mapping with the keys"),
    "distillation": ({"teacher": 5}, "distillation.teacher is 5; expected text or a list"),
    "auxiliary_heads": ({"fires_at_8": "much"}, "auxiliary_heads.fires_at_8 is 'much'"),
    "class_weights": ([1.0, "two"], "class_weights is 'two'"),
    "scale_range": ([2.0, 1.0], "positive and ascending"),
    "weight_decay": (-1.0, "must be at least 0"),
    "train_split": ({}, "(dict); expected str"),
}
NO_YAML = {
    "date": b"epochs: 2020-13-45",
    "empty int": b'epochs: !!int ""',
    "no UTF-8": b"network: \xff",
    "nested": b"[" * 10000,
    "digits": b"epochs: " + b"9" * 5000,
    "aliases": b"network_options: &a {x: [*a, *a]}",
    "list": b"- network",
    "empty": b"",
}
ODD = [None, True, -1, 0, 1.5, 2**40, float("inf"), "", "text", [], {}, [1, 2], {"a": 1}]


def refusal(path):
    with pytest.raises(RecipeError) as caught:
        Recipe.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 2000
    return message


@pytest.mark.parametrize("key", sorted(WRONG_TYPES))
def test_a_recipes_value_of_another_type(key, tmp_path):
    value, expected = WRONG_TYPES[key]
    message = refusal(write_recipe(tmp_path, **{key: value}))
    assert key in message and expected in message


def test_a_crop_that_no_tensor_can_have(tmp_path):
    message = refusal(write_recipe(tmp_path, crop_size=[2**40, 2**40]))
    assert "crop_size is (1099511627776, 1099511627776); expected less than" in message


@pytest.mark.parametrize("name", sorted(NO_YAML))
def test_a_recipe_that_is_no_yaml(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(NO_YAML[name])
    refusal(path)


@pytest.mark.parametrize(
    "changes",
    [{"network_options": {"dilations": []}}, {"auxiliary_heads": {"fires_at_8.0.x": 1.0}}],
)
def test_a_network_that_cannot_compute_is_one_line(changes):
    with pytest.raises(TrainingError, match="does not compute|no modules") as caught:
        TrainingState(Recipe.of(recipe(**changes)), 11, 3, CPU)
    assert "\n" not in str(caught.value)


def test_any_recipe_is_read_or_refused_in_one_line(tmp_path):
    chance, path = random.Random(13), tmp_path / "recipe.yaml"
    keys = sorted(Recipe.__dataclass_fields__)
    good = yaml.safe_dump(recipe()).encode()
    for number in range(300):
        if number % 2:
            content = yaml.safe_dump(recipe(**{chance.choice(keys): chance.choice(ODD)})).encode()
        else:
            at = chance.randrange(len(good))
            content = good[:at] + bytes(chance.choices(range(256), k=4)) + good[at + 3 :]
        path.write_bytes(content)
        try:
            Recipe.read(path)
        except RecipeError as error:
            assert "\n" not in str(error) and str(error).startswith(f"{path}: ")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with its first checkpoint, before any step."""
    folder = open_run(tmp_path_factory.mktemp("run"))
    folder.open(resume=False)
    folder.save_checkpoint()
    return folder


def open_run(path):
    """A folder whose state is small: a checkpoint of 5 MB would be slow to damage often."""
    small = Recipe.of(recipe(network="fast_elu_squeezenet", ema_decay=0.0))
    return RunFolder(path, small, TrainingState(small, 11, 3, CPU), Group())


def damaged(content, chance):
    content = bytearray(content)
    kind = chance.choice(["cut", "bytes", "swap", "insert"])
    at = chance.randrange(len(content))
    if kind == "cut":
        return bytes(content[:at])
    if kind == "insert":
        return bytes(content[:at] + bytes(chance.choices(range(256), k=9)) + content[at:])
    # What is pickled stands at the start.
    at = at if kind == "swap" else at % 4096
    content[at] ^= chance.randrange(1, 256)
    return bytes(content)


def test_a_damaged_checkpoint_is_one_line(run):
    path = run.path / CHECKPOINT_FILE
    whole, chance, refused = path.read_bytes(), random.Random(13), 0
    for _ in range(80):
        path.write_bytes(damaged(whole, chance))
        try:
            run.open(resume=True)
        except TrainingError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    path.write_bytes(whole)
    run.open(resume=True)
    # The rest is damaged where nothing is read: alignment between the archive's members.
    assert refused > 60


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_checkpoint_is_executed(run, tmp_path):
    path = run.path / CHECKPOINT_FILE
    whole = path.read_bytes()
    torch.save({"recipe": {}, "state": Touch(tmp_path / "made")}, path)
    with pytest.raises(TrainingError, match="not a whole checkpoint"):
        run.open(resume=True)
    assert not (tmp_path / "made").exists()
    path.write_bytes(whole)


@pytest.mark.parametrize("state", [{}, {"parts": {}}, 5, {"parts": {"model": [1]}}])
def test_a_checkpoint_of_something_else_is_one_line(state, run):
    path = run.path / CHECKPOINT_FILE
    whole = path.read_bytes()
    content = torch.load(path, weights_only=True)
    torch.save({**copy.copy(content), "state": state}, path)
    with pytest.raises(TrainingError, match="not a state of this run") as caught:
        run.open(resume=True)
    assert "\n" not in str(caught.value)
    path.write_bytes(whole)


TRAIN = ("recipe.yaml", "--output", "run")
EXPORT = ("run", "--name", "name", "--size")
OPTIONS = [
    (train, (*TRAIN, "--accumulate", "0")),
    (train, (*TRAIN, "--device", "nope")),
    (train, (*TRAIN, "--device", "meta")),
    (train, (*TRAIN, "--threads", "-1")),
    (train, (*TRAIN, "--workers", "0")),
    (train, (*TRAIN, "--limit", "0")),
    (train, (*TRAIN, "--stop-after", "9" * 5000)),
    (train, (*TRAIN, "--checkpoint-minutes", "nan")),
    (study, ("recipes", "--output", "runs", "--limit", "-5")),
    (export, (*EXPORT, "0x0")),
    (export, (*EXPORT, "99999x99999")),
    (export, (*EXPORT, "-3x5")),
    (export, (*EXPORT, "9" * 5000 + "x1")),
    (export, (*EXPORT, "360x480", "--batch", "-1")),
    (summary, ("enet", "--classes", "-1")),
    (summary, ("enet", "--classes", "256")),
    (summary, ("enet", "--batch", "0")),
    (summary, ("enet", "--size", "0x0")),
    (summary, ("enet", "--options", "2020-13-45")),
    (summary, ("enet", "--options", "text")),
]


@pytest.mark.parametrize("module, arguments", OPTIONS, ids=lambda value: str(value)[:60])
def test_an_impossible_option_is_refused_in_one_line(module, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        module.main(list(arguments))
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert "error: argument " in said.splitlines()[-1] and "Traceback" not in said


MODELS = Path(__file__).resolve().parents[2] / "models"
MISTAKES = [
    (summary, ("enet", "--options", "{no_such: 1}"), "does not take the options"),
    (
        summary,
        ("elu_squeezenet", "--options", "{decoder_widths: [1]}"),
        "does not take the options",
    ),
    (summary, ("elu_squeezenet", "--options", "{dilations: []}"), "does not compute with"),
    (export, (*("nowhere", "--name", "name", "--size"), "360x480"), "nowhere/recipe.yaml: not a"),
    (curves, ("nowhere.csv", "--output", "x.png"), "nowhere.csv"),
    (add_variants, ("nowhere", "--variant", "float"), "no such model folder"),
    (
        box_score,
        (str(MODELS / "enet_camvid"), "--dataset", "street"),
        "model enet_camvid has no box head",
    ),
]


@pytest.mark.parametrize("module, arguments, message", MISTAKES)
def test_a_commands_mistake_is_one_line(module, arguments, message, capsys):
    assert module.main(list(arguments)) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1


@contextlib.contextmanager
def files_of_at_most(limit_bytes):
    """As on a disk that is full: a longer file cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "limit_bytes, file",
    [(100, "recipe.yaml"), (1000, "tensorboard"), (100000, "weights"), (5000000, "checkpoint.pt")],
)
def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file(limit_bytes, file, tmp_path, capsys):
    root = write_camvid(tmp_path / "camvid")
    arguments = command(write_recipe(tmp_path, epochs=1), root, tmp_path / "run")[2:]
    with files_of_at_most(limit_bytes):
        assert train.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and file in said
    assert not list((tmp_path / "run").rglob("*partial*"))
    assert train.main(arguments) == 0


def test_an_export_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path, capsys):
    root = write_camvid(tmp_path / "camvid")
    arguments = command(write_recipe(tmp_path, epochs=1), root, tmp_path / "run")[2:]
    assert train.main(arguments) == 0
    models = tmp_path / "models"
    place = ["--models", str(models), "--root", str(root), "--size", "48x64"]
    with files_of_at_most(1000):
        assert export.main([str(tmp_path / "run"), "--name", "full", *place]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "cannot be written" in said
    assert list(models.iterdir()) == []


def test_a_picture_of_curves_that_cannot_be_written_is_one_line(tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_text("epoch,loss,val_mean_iou\n1,2.5,0.2\n")
    for place in ("nowhere/x.png", "x.nope"):
        assert curves.main([str(log), "--output", str(tmp_path / place)]) == 1
        said = capsys.readouterr().err
        assert "cannot be written" in said and said.count("\n") == 1
