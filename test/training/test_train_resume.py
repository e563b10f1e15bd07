"""A run that is stopped, killed or resumed: it loses little, and repeats the rest to the bit."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.training_runs import (
    command,
    losses,
    make_trainer,
    read_recipe,
    rows,
    start,
    write_camvid,
    write_recipe,
)

from segmentation_node.errors import OutputError
from training import checkpoint
from training.card import train_command
from training.errors import TrainingError
from training.run_folder import RECIPE_FILE
from training.train import main

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 9  # of three epochs


def same_weights(one, two):
    one, two = (load_file(run / "weights.safetensors") for run in (one, two))
    return all(torch.equal(one[name], two[name]) for name in one)


def without_times(output):
    timed = ("elapsed_s", "images_per_s")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows(output)]


@pytest.fixture(
    scope="module", params=[{}, {"optimiser": "sgd", "schedule": "poly", "ema_decay": 0}]
)
def whole(request, root, one_thread, tmp_path_factory):
    """A recipe and the folder of its uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = read_recipe(folder, **request.param)
    make_trainer(recipe, root, folder / "run").run()
    return recipe, folder / "run"


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(stop_after, whole, root, tmp_path):
    """Stopped inside the first epoch, inside the second, and right before its evaluation."""
    recipe, uninterrupted = whole
    parts = tmp_path / "parts"
    stopped = make_trainer(recipe, root, parts, stop_after=stop_after)
    stopped.run()
    assert not stopped.is_finished and stopped.steps_done == stop_after
    resumed = make_trainer(recipe, root, parts, resume=True)
    resumed.run()
    assert resumed.is_finished and resumed.steps_done == STEPS - stop_after
    assert without_times(parts) == without_times(uninterrupted)
    assert same_weights(parts, uninterrupted)


def test_dropout_repeats_after_a_resume(root, tmp_path, monkeypatch):
    """With random layers too: their numbers depend on the step alone."""
    import segmentation_node.networks as networks

    def with_dropout(classes):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Conv2d(3, classes, 3, padding=1))

    monkeypatch.setitem(networks.NETWORKS, "dropping", with_dropout)
    recipe = read_recipe(tmp_path, network="dropping")
    make_trainer(recipe, root, tmp_path / "whole").run()
    make_trainer(recipe, root, tmp_path / "parts", stop_after=4).run()
    make_trainer(recipe, root, tmp_path / "parts", resume=True).run()
    assert same_weights(tmp_path / "parts", tmp_path / "whole")


def test_a_finished_run_resumes_to_nothing(root, tmp_path):
    recipe = read_recipe(tmp_path, epochs=1)
    make_trainer(recipe, root, tmp_path / "run").run()
    again = make_trainer(recipe, root, tmp_path / "run", resume=True)
    again.run()
    assert again.is_finished and again.steps_done == 0 and len(rows(tmp_path / "run")) == 1


def test_a_run_goes_on_after_recipes_got_a_new_key(root, tmp_path):
    make_trainer(read_recipe(tmp_path), root, tmp_path / "run", stop_after=1).run()
    path = tmp_path / "run" / checkpoint.CHECKPOINT_FILE
    content = torch.load(path, weights_only=True)
    assert content["recipe"].pop("lovasz_weight") == 0
    torch.save(content, path)
    make_trainer(read_recipe(tmp_path), root, tmp_path / "run", resume=True, stop_after=2).run()
    with pytest.raises(TrainingError, match=r"differs from the run's in \['lovasz_weight'\]"):
        make_trainer(
            read_recipe(tmp_path, lovasz_weight=1.0), root, tmp_path / "run", resume=True
        ).run()


def fails_after(steps, train_step):
    left = iter(range(steps))

    def step(*batch):
        if next(left, None) is None:
            raise MemoryError
        return train_step(*batch)

    return step


def test_the_card_says_of_how_many_epochs_the_weights_of_a_killed_run_are(
    root, tmp_path, monkeypatch, capsys
):
    """Three were finished and logged, but weights are written after every second one."""
    recipe = read_recipe(tmp_path, epochs=4, evaluate_every=2)
    killed = make_trainer(recipe, root, tmp_path / "run", checkpoint_minutes=0)
    monkeypatch.setattr(killed, "train_step", fails_after(STEPS, killed.train_step))
    with pytest.raises(MemoryError):
        killed.run()
    assert len(rows(tmp_path / "run")) == 3
    told = "unfinished: 2 of 4 epochs"
    assert train_command(tmp_path / "run", recipe).endswith(f"{RECIPE_FILE}, {told}")
    assert told in capsys.readouterr().err
    make_trainer(recipe, root, tmp_path / "run", resume=True).run()
    assert train_command(tmp_path / "run", recipe).endswith(RECIPE_FILE)
    assert not capsys.readouterr().err


def test_another_recipe_does_not_resume(root, tmp_path):
    make_trainer(read_recipe(tmp_path), root, tmp_path / "run", stop_after=1).run()
    other = read_recipe(tmp_path, learning_rate=0.5, epochs=9)
    with pytest.raises(TrainingError, match=r"differs from the run's in \['epochs', 'learning_"):
        make_trainer(other, root, tmp_path / "run", resume=True).run()


def test_other_data_do_not_resume(root, tmp_path):
    recipe, run = read_recipe(tmp_path), tmp_path / "run"
    make_trainer(recipe, root, run, stop_after=1).run()
    other = write_camvid(tmp_path / "camvid", (("train", 8), ("val", 4)))
    with pytest.raises(TrainingError, match="the run's training images: 12; found 8; take") as one:
        make_trainer(recipe, other, run, resume=True).run()
    assert "\n" not in str(one.value)
    others = tmp_path / "others"
    shutil.copytree(root, others)
    for folder in ("train", "trainannot"):
        first = min((others / folder).iterdir())
        first.rename(first.with_name("another.png"))
    with pytest.raises(TrainingError, match="the run's training images' names, in SHA-256: "):
        make_trainer(recipe, others, run, resume=True).run()
    path = run / checkpoint.CHECKPOINT_FILE
    content = torch.load(path, weights_only=True)
    content["state"]["data"]["classes"][0] = "heaven"
    torch.save(content, path)
    with pytest.raises(TrainingError, match="the run's classes: .'heaven', .*; found .'sky', "):
        make_trainer(recipe, root, run, resume=True).run()
    del content["state"]["data"]  # as older versions wrote it
    torch.save(content, path)
    make_trainer(recipe, other, run, resume=True, stop_after=1).run()


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    kept = {"recipe": {}, "state": {"step": 1}}
    checkpoint.save_checkpoint(tmp_path, kept)

    def fails(content, path):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OutputError, match="disk full"):
        checkpoint.save_checkpoint(tmp_path, {"recipe": {}, "state": {"step": 2}})
    assert checkpoint.load_checkpoint(tmp_path) == kept
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.CHECKPOINT_FILE]


@pytest.mark.parametrize("name", ["recipe.yaml", "log.csv", "weights.safetensors"])
def test_a_new_run_replaces_no_file_of_another(name, root, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(TrainingError, match=f"holds {name}, which is not of a run of this recipe"):
        make_trainer(read_recipe(tmp_path), root, tmp_path / "run").run()
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_a_checkpoint_unpickles_nothing_but_values(tmp_path):
    torch.save(
        {"recipe": {}, "state": np.random.default_rng}, tmp_path / checkpoint.CHECKPOINT_FILE
    )
    with pytest.raises(TrainingError, match="[Ww]eights"):
        checkpoint.load_checkpoint(tmp_path)


def wait_for(path, process, newer_than_s=0.0):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.stat().st_mtime > newer_than_s:
            return path.stat().st_mtime
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear: {process.communicate(timeout=10)[0]}")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_step_and_saves_and_the_run_goes_on_as_if_there_were_none(
    number, root, tmp_path
):
    changes = {"epochs": 400, "evaluate_every": 400}
    path, run, whole = write_recipe(tmp_path, **changes), tmp_path / "run", tmp_path / "whole"
    process = start(path, root, run, "--checkpoint-minutes", 0)
    wait_for(run / checkpoint.CHECKPOINT_FILE, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    state = checkpoint.load_checkpoint(run)["state"]
    said = f"stopped in epoch {state['epoch'] + 1} after step {state['step']}; --resume goes on"
    assert said in output and (run / "weights.safetensors").exists()

    more = STEPS // 3 + 1
    assert main(command(path, root, run, "--resume", "--stop-after", more)[2:]) == 0
    stop_after = state["epoch"] * STEPS // 3 + state["step"] + more
    make_trainer(read_recipe(tmp_path, **changes), root, whole, stop_after=stop_after).run()
    assert losses(run) == losses(whole) != [] and same_weights(run, whole)


def test_a_killed_run_loses_at_most_an_interval(root, tmp_path):
    """With an interval of zero the checkpoint is at most one step behind, and always whole."""
    recipe = write_recipe(tmp_path, epochs=400, evaluate_every=400)
    run = tmp_path / "run"
    process = start(recipe, root, run, "--checkpoint-minutes", 0)
    written_s = wait_for(run / checkpoint.CHECKPOINT_FILE, process)
    wait_for(run / checkpoint.CHECKPOINT_FILE, process, newer_than_s=written_s)
    time.sleep(0.013)  # into the next step or its write
    process.kill()
    process.communicate(timeout=60)
    state = checkpoint.load_checkpoint(run)["state"]
    done = state["epoch"] * 3 + state["step"]
    assert done >= 2 and len(rows(run)) in (state["epoch"], state["epoch"] + 1)
    resumed = make_trainer(
        read_recipe(tmp_path, epochs=400, evaluate_every=400), root, run, resume=True, stop_after=5
    )
    resumed.run()
    again = resumed.state
    assert again.epoch * 3 + again.step == done + 5 and len(rows(run)) == again.epoch
