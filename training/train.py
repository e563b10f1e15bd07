"""Train a network by a recipe: ``python -m training.train RECIPE --root DATA --output RUN``.

``torchrun --nproc-per-node N -m training.train ...`` spreads each batch over N processes.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import DatasetError, exit_code
from training.arguments import add_skip_broken, minutes, usable_device, whole
from training.data import AnySplit, Split, open_data, open_split
from training.distributed import Group, join_group
from training.errors import TrainingError
from training.recipe import Recipe, RunOptions
from training.trainer import Trainer


def train(arguments: argparse.Namespace) -> int:
    """Carry a recipe out; the exit code is 0, or 128 + the signal that stopped it."""
    recipe = Recipe.read(arguments.recipe)
    if arguments.cuda_graph and not arguments.device.startswith("cuda"):
        raise TrainingError(f"--cuda-graph needs --device cuda; found {arguments.device}")
    prepare_arithmetic(recipe, arguments.threads)
    with join_group(arguments.device) as (group, device):
        return _train_in(group, device, recipe, arguments)


def _train_in(
    group: Group, device: torch.device, recipe: Recipe, arguments: argparse.Namespace
) -> int:
    splits = [
        _open(recipe, name, arguments, device) if name else None
        for name in (recipe.train_split, recipe.val_split)
    ]
    training, validation = splits
    assert training is not None
    options = RunOptions(
        accumulate=arguments.accumulate,
        compile_network=arguments.compile,
        cuda_graph=arguments.cuda_graph,
        checkpoint_minutes=arguments.checkpoint_minutes,
        stop_after=arguments.stop_after,
        resume=arguments.resume,
    )
    _announce(group, training, validation, device)
    with _told_how_to_go_on(arguments.skip_broken):
        trainer = Trainer(recipe, training, validation, arguments.output, options, group)
        trainer.run()
    if not trainer.is_finished and group.is_first:
        state = trainer.state
        print(f"stopped in epoch {state.epoch + 1} after step {state.step}; --resume goes on")
    return 128 + trainer.stop.signal if trainer.stop.signal else 0


def prepare_arithmetic(recipe: Recipe, threads: int | None) -> None:
    """Set what decides speed before any thread pool starts."""
    if threads:
        torch.set_num_threads(threads)
    # Saturated ELUs make gradients so small that the CPU computes them many times slower.
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True
    # The networks convolve. What is multiplied as matrices are positions in augmented images.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = recipe.precision != "fp32"


def _open(
    recipe: Recipe, split: str, arguments: argparse.Namespace, device: torch.device
) -> AnySplit:
    dataset = open_data(
        recipe.dataset, arguments.root, split, arguments.skip_broken, arguments.limit
    )
    with _told_how_to_go_on(arguments.skip_broken):
        return open_split(dataset, device, arguments.data, arguments.limit, arguments.workers)


@contextmanager
def _told_how_to_go_on(skips_broken: bool) -> Iterator[None]:
    """Around what reads pictures, and raises DatasetError for one that cannot be read."""
    try:
        yield
    except DatasetError as error:
        if skips_broken:  # it broke after all of them were read
            raise
        raise DatasetError(f"{error}; --skip-broken leaves such pictures out") from error


def _announce(
    group: Group, training: AnySplit, validation: AnySplit | None, device: torch.device
) -> None:
    if not group.is_first:
        return
    where = "in memory" if isinstance(training, Split) else "streamed"
    print(
        f"{len(training)} training images {where}, {len(validation or ())} validation images, "
        f"{group.world} x {device}",
        flush=True,
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="python3 -m training.train",
        description="""
Train a network by a recipe. The recipe decides the result; the options decide how it is carried
out.""",
        examples="""
%(prog)s training/recipes/fast_elu_squeezenet_street.yaml --output runs/mine
%(prog)s training/recipes/fast_elu_squeezenet_street.yaml --output runs/mine --resume
torchrun --nproc-per-node 4 -m training.train RECIPE --root DATA --output runs/mine
""",
    )
    parser.add_argument(
        "recipe", type=Path, metavar="RECIPE", help="YAML file, such as those of training/recipes"
    )
    parser.add_argument(
        "--root", default="", metavar="FOLDER", help="where the data set lies; street needs none"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="RUN", help="folder of this run"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the run's last checkpoint"
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=minutes,
        default=10.0,
        metavar="MINUTES",
        help="time between two checkpoints",
    )
    parser.add_argument(
        "--device",
        type=usable_device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="of torch: cpu, cuda or cuda:N",
    )
    parser.add_argument(
        "--threads", type=whole(1), metavar="N", help="CPU threads that compute; default: torch's"
    )
    parser.add_argument(
        "--workers",
        type=whole(1),
        metavar="N",
        help="threads that read pictures; default: one a core, 8 at most",
    )
    parser.add_argument(
        "--data",
        choices=("auto", "memory", "stream"),
        default="auto",
        help="pictures decoded once and kept in memory, or read as they are needed; auto: in "
        "memory if they fit into 30 %% of what is free (default: auto)",
    )
    parser.add_argument(
        "--accumulate",
        type=whole(1),
        default=1,
        metavar="N",
        help="parts that a batch is computed in, to save memory; batch norms see a part each",
    )
    faster = parser.add_mutually_exclusive_group()
    faster.add_argument(
        "--compile", action="store_true", help="let torch.compile make the network faster"
    )
    faster.add_argument(
        "--cuda-graph",
        action="store_true",
        help="replay a step's passes as CUDA graphs: one GPU, one process, no --accumulate",
    )
    parser.add_argument(
        "--stop-after", type=whole(1), metavar="STEPS", help="stop and save after so many steps"
    )
    parser.add_argument(
        "--limit",
        type=whole(1),
        metavar="N",
        help="take only the first N pictures of each split; default: all",
    )
    add_skip_broken(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train; a known error is one line and exit code 1."""
    parsed = parse(arguments)
    return exit_code(lambda: train(parsed))


if __name__ == "__main__":
    sys.exit(main())
