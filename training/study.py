"""Train several recipes and compare what they reach: ``python -m training.study RECIPES``.

Each run's weights are scored on the recipe's val split and, with ``--held-out``, on splits that it
never saw. A run that was stopped goes on; one that has ended is only scored. Writes
``study.json`` beside the runs.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code
from segmentation_node.evaluation.report.text import table, write_json
from training import train
from training.arguments import add_skip_broken, whole
from training.checkpoint import CHECKPOINT_FILE
from training.data import open_data, open_split
from training.distributed import Group
from training.errors import TrainingError
from training.recipe import Recipe
from training.run_folder import RECIPE_FILE, network_of_run
from training.scoring import score


def train_recipe(recipe: Path, root: str, run: Path, options: list[str]) -> None:
    """Train by the command, from the last checkpoint on where there is one.

    Raises TrainingError when it fails or is stopped.
    """
    arguments = [str(recipe), "--root", root, "--output", str(run), *options]
    if (run / CHECKPOINT_FILE).exists():
        arguments.append("--resume")
    code = train.main(arguments)
    if code:
        raise TrainingError(
            f"training of {recipe} ended with code {code}; the same command goes on"
        )


def score_run(
    run: Path, root: str, split: str, limit: int | None = None, skip_broken: bool = False
) -> dict[str, float]:
    """Mean IoU and global accuracy of a run's weights on a split, whole images, 0 to 1."""
    recipe = Recipe.read(run / RECIPE_FILE)
    dataset = open_data(recipe.dataset, root, split, skip_broken, limit)
    images = open_split(dataset, torch.device("cpu"), "auto", limit)
    network, normalise = network_of_run(run, images.classes)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    matrix = score(network, normalise, images, Group()).matrix
    return {"mean_iou": matrix.mean_iou(), "global_accuracy": matrix.global_accuracy()}


def summary(rows: list[dict[str, Any]]) -> str:
    """Mean IoU in % of every run and split, and the difference to the first run; "-": none."""
    splits = list(dict.fromkeys(split for row in rows for split in row["scores"]))
    header = ["recipe", *(text for split in splits for text in (split, "against first"))]
    return table(header, [_cells(row, rows[0], splits) for row in rows])


def main(arguments: list[str] | None = None) -> int:
    """Train, score, print the table; a known error is one line and exit code 1."""
    parser = CommandParser(
        prog="python3 -m training.study",
        description="""
Train several recipes one after the other, and compare what they reach on their val split. A run
that was stopped goes on; one that has ended is only scored. Writes study.json beside the runs.""",
        examples="%(prog)s training/recipes/ablations --root CAMVID --output runs/ablations",
    )
    parser.add_argument(
        "recipes",
        nargs="+",
        type=Path,
        metavar="RECIPE",
        help="recipe files, or folders of them; the others are compared with the first",
    )
    parser.add_argument(
        "--root", default="", metavar="FOLDER", help="where the data set lies; street needs none"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="RUNS", help="folder of the runs"
    )
    parser.add_argument(
        "--held-out",
        nargs="*",
        default=[],
        metavar="SPLIT",
        help="splits that no run saw, which all are scored on too",
    )
    parser.add_argument(
        "--limit",
        type=whole(1),
        metavar="N",
        help="take only the first N pictures of each split; default: all",
    )
    add_skip_broken(parser)
    parsed = parser.parse_args(arguments)

    def compare() -> int:
        print(summary(_study(parsed)))
        return 0

    return exit_code(compare)


def _study(given: argparse.Namespace) -> list[dict[str, Any]]:
    root, output, limit = given.root, given.output, given.limit
    paths = [path for item in given.recipes for path in _files(item)]
    _require_own_folders(paths, output)
    options = ["--limit", str(limit)] if limit else []
    options += ["--skip-broken"] if given.skip_broken else []
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(paths, 1):
        print(f"recipe {number} of {len(paths)}: {path}", flush=True)
        recipe, run = Recipe.read(path), output / path.stem
        train_recipe(path, root, run, options)
        splits = [split for split in (recipe.val_split, *given.held_out) if split]
        scores = {split: score_run(run, root, split, limit, given.skip_broken) for split in splits}
        rows.append({"recipe": str(path), "seed": recipe.seed, "scores": scores})
        write_json(str(output / "study.json"), {"format": 1, "results": rows})
    return rows


def _files(path: Path) -> list[Path]:
    found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not found:
        raise TrainingError(f"no recipe (*.yaml) in {path}")
    return found


def _require_own_folders(paths: list[Path], output: Path) -> None:
    """Each recipe's run is called by its stem."""
    of_stem: dict[str, Path] = {}
    for path in paths:
        other = of_stem.setdefault(path.stem, path)
        if other.resolve() != path.resolve():
            raise TrainingError(
                f"{other} and {path} would both be the run {output / path.stem}; rename one, or "
                "give each study its own --output"
            )


def _cells(row: dict[str, Any], first: dict[str, Any], splits: list[str]) -> list[str]:
    cells = [Path(row["recipe"]).stem]
    for split in splits:
        value, reference = (
            item["scores"].get(split, {}).get("mean_iou", math.nan) * 100 for item in (row, first)
        )
        cells += [f"{value:.1f}", f"{value - reference:+.1f}"]
    return ["-" if cell in ("nan", "+nan") else cell for cell in cells]


if __name__ == "__main__":
    sys.exit(main())
