"""A training step's passes as CUDA graphs, on a stand-in: no GPU is needed."""

import pytest
import torch
from support.training_runs import losses, make_trainer, read_recipe

from training import train
from training.errors import TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")
WARM_UP = 3


@pytest.fixture
def replays(monkeypatch):
    """In place of torch.cuda.make_graphed_callables: what it does, and what it asks for."""
    made = []

    def record(module, sample_args):
        (image,) = sample_args
        kind = image.device.type
        assert module.training and image.is_contiguous(memory_format=torch.channels_last)
        assert not (torch.is_autocast_enabled(kind) and torch.is_autocast_cache_enabled())
        parameters = list(module.parameters())
        for _ in range(WARM_UP):
            logits = module(image)
            torch.autograd.grad(logits, parameters, [torch.ones_like(item) for item in logits])
        forward = module.forward

        def replay(images):
            if not module.training:
                return forward(images)
            assert images.shape == image.shape, "a graph has one size"
            made.append(image.copy_(images))
            return forward(image)

        module.forward = replay
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_steps_give_the_same_losses(root, tmp_path, replays, precision):
    recipe = read_recipe(tmp_path, network="fast_elu_squeezenet", precision=precision)
    for name, is_graphed in (("eager", False), ("graph", True)):
        trainer = make_trainer(recipe, root, tmp_path / name, cuda_graph=is_graphed)
        trainer.run()
    assert len(replays) == 9
    assert losses(tmp_path / "graph") == losses(tmp_path / "eager")


def test_a_stopped_run_goes_on(root, tmp_path, replays):
    recipe = read_recipe(tmp_path)
    make_trainer(recipe, root, tmp_path / "whole").run()
    make_trainer(recipe, root, tmp_path / "run", cuda_graph=True, stop_after=4).run()
    make_trainer(recipe, root, tmp_path / "run", cuda_graph=True, resume=True).run()
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_parts_of_a_batch_are_refused(root, tmp_path, replays):
    recipe = read_recipe(tmp_path)
    with pytest.raises(TrainingError, match="--accumulate 1; found 1 processes and --accumulate 2"):
        make_trainer(recipe, root, tmp_path / "run", cuda_graph=True, accumulate=2)


def test_a_cpu_is_refused(root, tmp_path, capsys):
    read_recipe(tmp_path)
    words = [str(tmp_path / "recipe_in.yaml"), "--root", str(root), "--output", str(tmp_path / "r")]
    assert train.main([*words, "--device", "cpu", "--cuda-graph"]) == 1
    assert "--cuda-graph needs --device cuda; found cpu" in capsys.readouterr().err
