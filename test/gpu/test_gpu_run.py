"""How a run on a GPU shares its time, what it does about failures, and all of it at toy size."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.training_runs import write_camvid

from segmentation_node.model_card import open_model
from segmentation_node.networks import build_network
from tools.gpu import ROOT, TRAININGS, GpuError, run, take, train
from tools.gpu.limited import Ended, run_limited
from training.distributed import Group
from training.recipe import Recipe
from training.run_folder import RunFolder

ABSENT = ("rclpy", "rosbags", "openvino", "ament_index_python", "sensor_msgs", "lz4", "mcap")
"""What the machine with the GPU does not have."""
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize("network", TRAININGS)
def test_a_recipe_is_the_file_s_until_there_is_something_to_go_on_from(network, tmp_path):
    training = TRAININGS[network]
    recipes = tmp_path / "training" / "recipes"
    recipes.mkdir(parents=True)
    file = f"{training.recipe}.yaml"
    (recipes / file).write_bytes((ROOT / "training" / "recipes" / file).read_bytes())
    first = train.recipe_of(network, False, tmp_path)
    assert first.network == network and first.precision == "bf16"
    assert bool(first.trunk) == training.has_trunk
    start = tmp_path / "start" / network / "from_random.safetensors"
    start.parent.mkdir(parents=True)
    start.touch()
    second = train.recipe_of(network, False, tmp_path)
    assert second.start_weights == f"start/{network}/from_random.safetensors" and not second.trunk
    assert second.learning_rate == pytest.approx(first.learning_rate / 3)
    assert second.seed != first.seed


def test_time_is_shared_by_what_is_left():
    names = list(TRAININGS)
    assert sum(item.share for item in TRAININGS.values()) == pytest.approx(1)
    first_s = train.seconds_for(names[0], names, 260)
    assert first_s == pytest.approx(260 * TRAININGS[names[0]].share)
    # What one leaves over, the others share; the last has all that is left.
    assert train.seconds_for(names[1], names[1:], 260) > 260 * TRAININGS[names[1]].share
    assert train.seconds_for(names[-1], names[-1:], 31.0) == pytest.approx(31.0)


@pytest.mark.parametrize("seconds, epochs", [(1.0, 1), (50.0, 45), (10_000.0, 600)])
def test_as_many_epochs_as_fit(seconds, epochs):
    recipe = Recipe.read(ROOT / "training" / "recipes" / "enet_camvid_modern.yaml")
    found = train.fitted(recipe, 0.025, 40, seconds)
    assert (found.epochs, found.evaluate_every) == (epochs, epochs)


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(tmp_path):
    child = "import time; time.sleep(600)"
    code = (
        "import subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    log = io.BytesIO()
    assert run_limited([sys.executable, "-c", code], 4.0, log, os.environ) == Ended.STOPPED
    assert not _runs(int(log.getvalue()))


def _runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("code, ended", [("pass", Ended.OK), ("raise SystemExit(3)", "failed (3)")])
def test_how_a_command_ended(code, ended):
    log = io.BytesIO()
    assert run_limited([sys.executable, "-c", f"print('said'); {code}"], 600, log, {}) == ended
    assert log.getvalue() == b"said\n"


def test_no_time_left_starts_nothing():
    assert run_limited(["/nonexistent"], 0.0, io.BytesIO(), {}) == Ended.STOPPED


@pytest.fixture
def on_a_gpu(tmp_path, monkeypatch):
    """A run whose commands are noted and not carried out; ``failing`` networks train never."""
    monkeypatch.setattr(run, "ROOT", tmp_path)
    (tmp_path / "pack.json").write_text('{"commit": "abc"}')
    made = run.Run(tmp_path / "out", tmp_path / "work", False)
    made.commands, made.failing = [], {}

    def carry_out(part, module, seconds):
        words = [str(item) for item in module]
        made.commands.append((part, words, seconds))
        if part != "training":
            return Ended.OK
        eager = words[words.index("--eager") + 1 :] if "--eager" in words else []
        for network in words[1 : words.index("--camvid")]:
            if made.failing.get(network) == "always" or (
                made.failing.get(network) == "graph" and network not in eager
            ):
                return "failed (1)"
            outcome = made.work / "runs" / network / "outcome.json"
            outcome.parent.mkdir(parents=True)
            outcome.touch()
        return Ended.OK

    monkeypatch.setattr(made, "_run", carry_out)
    return made


def test_a_network_that_fails_is_tried_without_a_graph_and_then_left_out(on_a_gpu):
    on_a_gpu.failing = {"elu_squeezenet": "graph", "segnet_basic": "always"}
    on_a_gpu.training()
    eager = [
        module[module.index("--eager") + 1 :] if "--eager" in module else []
        for _, module, _ in on_a_gpu.commands
    ]
    assert eager == [
        [],
        ["elu_squeezenet"],
        ["elu_squeezenet", "segnet_basic"],
        ["elu_squeezenet", "segnet_basic"],
    ]
    trained = {path.parent.name for path in (on_a_gpu.work / "runs").rglob("outcome.json")}
    assert trained == set(TRAININGS) - {"segnet_basic"}


def test_what_an_attempt_left_does_not_keep_the_next_one_from_training(
    tmp_path, monkeypatch, capsys
):
    """A run's folder refuses another recipe, and another attempt has time for other epochs."""
    recipe = train.recipe_of("enet", True)
    dataclasses.replace(recipe, epochs=7).write(tmp_path / "work" / "enet" / "recipe.yaml")

    def attempt(recipe, splits, folder, seconds, is_graphed):
        RunFolder(folder, recipe, None, Group()).open(resume=False)
        raise GpuError("it began")

    for name, found in (("open_dataset", None), ("open_split", None), ("train", attempt)):
        monkeypatch.setattr(train, name, found or (lambda *_: None))
    options = ("--work", str(tmp_path / "work"), "--output", str(tmp_path), "--seconds", "9")
    assert train.main(["enet", "--camvid", "", *options, "--device", "cpu", "--toy"]) == 1
    assert capsys.readouterr().err == "error: it began\n"


def test_the_table_begins_with_its_core(on_a_gpu):
    on_a_gpu.latency()
    (_, core, core_s), (_, rest, rest_s) = on_a_gpu.commands
    assert core[core.index("--sizes") + 1] == "640x360" and "--resume" not in core
    assert rest[-1] == "--resume" and rest_s <= core_s <= 90


def test_a_folder_that_was_not_packed_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert run.main([str(tmp_path / "out")]) == 1
    assert "is no packed folder" in capsys.readouterr().err


def test_a_trial_is_not_taken_into_the_checkout(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps({"toy": True, "parts": [], "commit": "abc"}))
    assert take.main([str(tmp_path), "--camvid", str(tmp_path)]) == 1
    assert "--into names another folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[" * 10**5])
def test_notes_that_are_damaged_are_one_line(content, tmp_path, capsys, monkeypatch):
    for name in ("run.json", "pack.json"):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert take.main([str(tmp_path), "--camvid", str(tmp_path)]) == 1
    assert run.main([str(tmp_path / "out")]) == 1
    for line, name in zip(capsys.readouterr().err.splitlines(), ("run", "pack"), strict=True):
        assert line.startswith(f"error: {tmp_path}/{name}.json: not valid JSON: ")


def test_only_a_better_model_is_better():
    class Card:
        def __init__(self, mean_iou):
            entry = {"dataset": "camvid", "split": "val", "artifact": "onnx", "mean_iou": mean_iou}
            self.accuracy = [dataclasses.make_dataclass("Entry", entry)(**entry)]

    assert take.Trained("enet", Card(0.5), None).is_better
    assert take.Trained("enet", Card(0.5), Card(0.4)).is_better
    assert not take.Trained("enet", Card(0.4), Card(0.4)).is_better


def test_no_model_that_was_trained_on_val_is_replaced(tmp_path):
    """The default one's card has the accuracy of train and val together, and of no split apart."""
    (tmp_path / "run.json").write_text(json.dumps({"toy": False, "parts": [], "commit": "abc"}))
    shipped = take.shipped_model(ROOT / "models", "fast_elu_squeezenet")
    assert shipped.name == "fast_elu_squeezenet_camvid" and take.mean_iou(shipped) is None
    found = take.Trained("fast_elu_squeezenet", open_model("enet_camvid"), shipped)
    assert not found.is_better
    said = take.Take(tmp_path, tmp_path, tmp_path, tmp_path)._verdict(found, tmp_path)
    assert "fast_elu_squeezenet_camvid was not scored on val" in said and "stays in" in said


def start(arguments, folder, absent):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(absent)}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_all_of_it_at_toy_size(tmp_path):
    """Packed, run where nothing of ROS can be imported, taken, and packed again."""
    camvid = write_camvid(tmp_path / "camvid")
    trunk = tmp_path / "squeezenet.safetensors"
    save_file(trunk_tensors(), str(trunk))
    packed, back, into = tmp_path / "pack", tmp_path / "back", tmp_path / "into"
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "sitecustomize.py").write_text(BLOCK.format(absent=set(ABSENT)))
    pack_it = ("tools.gpu.pack", packed, "--camvid", camvid, "--trunk", trunk)
    for arguments, folder in ((pack_it, ROOT), (("tools.gpu.run", "--toy", back), packed)):
        done = start(arguments, folder, absent)
        assert done.returncode == 0, done.stdout + done.stderr
    files = sorted(path.name for path in back.iterdir())
    assert len(files) <= 8 and {"run.json", "log.txt", "gpu.json", "weights.03"} <= set(files)
    assert all((back / name).stat().st_size < 16_000_000 for name in files)
    notes = json.loads((back / "run.json").read_text())
    assert [part["ended"] for part in notes["parts"]] == ["ok"] * 5

    shipped = into / "models" / "enet_camvid"
    take_it = ("tools.gpu.take", back, "--camvid", camvid, "--into", into)
    done = start((*take_it, "--exports", tmp_path / "exports"), ROOT, absent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "enet: mean IoU on val" in done.stdout and "segnet: mean IoU on val" in done.stdout
    assert "than the 64 MB that are shipped" in done.stdout
    assert {path.name for path in (into / "models").iterdir()} == {
        f"{network}_camvid" for network in TRAININGS if network != "segnet"
    }
    card = yaml.safe_load((shipped / "model.yaml").read_text())
    assert card["weights"]["provenance"].endswith("training/recipes/enet_camvid_gpu.yaml")
    assert (into / "training" / "recipes" / "enet_camvid_gpu.yaml").is_file()
    assert (into / "benchmarks" / "results" / "gpu" / "paper_tables.json").is_file()

    before = {path: path.read_bytes() for path in shipped.iterdir()}
    done = start((*take_it, "--exports", tmp_path / "again"), ROOT, absent)
    assert "enet: mean IoU on val" in done.stdout and "not better, stays in" in done.stdout
    assert {path: path.read_bytes() for path in shipped.iterdir()} == before

    done = start((*pack_it, "--from", back), ROOT, absent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on from: enet, fast_elu_squeezenet, elu_squeezenet, segnet_basic" in done.stdout


def trunk_tensors():
    """SqueezeNet 1.1's trunk in torchvision's names, at random."""
    from training.pretrained import squeezenet_mapping

    torch.manual_seed(0)
    own = build_network("elu_squeezenet", 11, {}).state_dict()
    return {source: own[name].clone() for name, source in squeezenet_mapping("stem.0").items()}


def test_without_what_was_packed_nothing_is_taken(tmp_path, capsys):
    with pytest.raises(GpuError, match="expected what tools.gpu.run wrote"):
        take.Take(tmp_path, tmp_path, tmp_path, tmp_path)
