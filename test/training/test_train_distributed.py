"""Two processes that share a batch give the run of one process."""

import socket

import pytest
import torch
from safetensors.torch import load_file
from support.training_runs import command, losses, python, rows, start, write_recipe

from training.train import main

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
