"""The folder of a run: its recipe, checkpoint and weights."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.checkpoint import (
    BEST_FILE,
    CHECKPOINT_FILE,
    WEIGHTS_FILE,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from training.distributed import Group
from training.errors import TrainingError
from training.recipe import Recipe
from training.state import TrainingState

RECIPE_FILE = "recipe.yaml"
LOG_FILE = "log.csv"


class RunFolder:
    """Where the first process of a group keeps a run's state."""

    def __init__(self, path: Path, recipe: Recipe, state: TrainingState, group: Group) -> None:
        self.path, self.recipe, self.state, self.group = path, recipe, state, group

    def open(self, resume: bool) -> None:
        """Load the last checkpoint, or begin a run where there is none."""
        if resume:
            content = load_checkpoint(self.path)
            # By way of a recipe: keys that came after the run was begun have their defaults.
            _check_same(asdict(Recipe.of(content["recipe"])), asdict(self.recipe))
            self.state.load_state_dict(content["state"])
        elif (self.path / CHECKPOINT_FILE).exists():
            raise TrainingError(
                f"{self.path} holds a run; add --resume to go on, or choose another folder"
            )
        else:
            self._check_others()
        self.group.wait()
        if self.group.is_first:
            self.path.mkdir(parents=True, exist_ok=True)
            self.recipe.write(self.path / RECIPE_FILE)

    def _check_others(self) -> None:
        """What a run of this recipe left before its first checkpoint is replaced, nothing else."""
        recipe = self.path / RECIPE_FILE
        if recipe.is_file() and recipe.read_bytes() == self.recipe.text().encode():
            return
        for name in (RECIPE_FILE, LOG_FILE, WEIGHTS_FILE, BEST_FILE):
            if (self.path / name).exists():
                raise TrainingError(
                    f"{self.path} holds {name}, which is not of a run of this recipe: it is left "
                    "alone; choose another folder"
                )

    def save_checkpoint(self) -> None:
        """Replace the checkpoint by the state of now."""
        if self.group.is_first:
            content = {"recipe": asdict(self.recipe), "state": self.state.state_dict()}
            save_checkpoint(self.path, content)

    def save_weights(self, name: str) -> None:
        """Write the weights that are scored and exported."""
        if self.group.is_first:
            save_weights(self.path / name, self.state.result)


def _check_same(saved: dict[str, Any], now: dict[str, Any]) -> None:
    changed = sorted(key for key in now if saved[key] != now[key])
    if changed:
        raise TrainingError(f"the recipe differs from the run's in {changed}; take the run's own")
