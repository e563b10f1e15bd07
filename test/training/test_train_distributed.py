"""Two processes that share a batch give the run of one process."""

import socket

import pytest
import torch
from safetensors.torch import load_file
from support.training_runs import (
    CPU,
    command,
    losses,
    python,
    read_recipe,
    rows,
    start,
    write_recipe,
)
from torch import nn

from segmentation_node.evaluation.datasets import open_dataset
from training import state, step
from training.data import Split
from training.distributed import Group, join_group
from training.pretrained import TrunkReport
from training.train import main
from training.trainer import Trainer

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
    pytest.mark.usefixtures("one_thread"),
]


# Gloo's threads, where they outlive the training, abort the process now and then.
CHECKED = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path.cwd()))
from training.train import main
code = main()
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
left = [name for name in threads if "runloop" in name]
sys.exit(code or (f"left: {left}" if left else 0))
"""


def torchrun(recipe, root, output, *more):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = output.parent / "checked.py"
    script.write_text(CHECKED)
    options = ("--nnodes", "1", "--nproc-per-node", "2", "--master-addr", "127.0.0.1")
    launcher = ("-m", "torch.distributed.run", *options, "--master-port", str(port), str(script))
    return python(*launcher, *command(recipe, root, output, *more)[2:])


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


def test_two_processes_give_the_losses_of_one(root, tmp_path):
    """On batches whose halves differ in void pixels: the mean is over both halves together."""
    recipe = write_recipe(tmp_path, scale_range=[0.4, 1.5], auxiliary_heads={"fires_at_8": 0.4})
    finish(torchrun(recipe, root, tmp_path / "two"))
    assert main(command(recipe, root, tmp_path / "one")[2:]) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert float(two["val_mean_iou"]) == pytest.approx(float(one["val_mean_iou"]), abs=0.02)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_two_processes_stop_and_resume_together(root, tmp_path):
    recipe = write_recipe(tmp_path)
    finish(torchrun(recipe, root, tmp_path / "parts", "--stop-after", 4))
    finish(torchrun(recipe, root, tmp_path / "parts", "--resume", "--accumulate", 2))
    finish(start(recipe, root, tmp_path / "one"))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


def test_a_trunks_batch_norms_are_measured_before_gpus_share_them(root, tmp_path, monkeypatch):
    """Then they are others, and DistributedDataParallel gives all processes the first one's."""
    measured = []

    def shared(model, device):
        measured.append(model.network.stem[1].running_mean.abs().sum().item())
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def trunk(network, path):
        return TrunkReport(trunk="none", matched={}, unused=[], fresh=[], norms=["stem.1"])

    monkeypatch.setattr(step, "_parallel", shared)
    monkeypatch.setattr(state, "load_trunk", trunk)
    recipe = read_recipe(tmp_path, network="fast_elu_squeezenet", trunk="file")
    split = Split(open_dataset("camvid", str(root), "train"), CPU)
    trainer = Trainer(recipe, split, None, tmp_path / "run", group=Group(0, 2))
    assert measured[0] > 0
    assert isinstance(trainer.network.stem[1], nn.SyncBatchNorm)


def test_a_gpu_that_is_named_is_the_current_one(monkeypatch):
    """A CUDA graph recorded on another one is empty, and its replays leave the loss as it was."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        with join_group(name) as (group, device):
            assert (group, device) == (Group(), torch.device(name))
    assert chosen == [torch.device("cuda:1")]
