"""Stops a run that can no longer succeed."""

import math
from collections.abc import Iterable
from typing import Any

from training.errors import DivergedError

WINDOW = 20
"""Steps over which losses are averaged before they are compared."""
LARGEST_GROWTH = 10.0
"""The mean loss may be this many times the first steps' before the run counts as diverged."""


class DivergenceGuard:
    """Looks at every loss; raises DivergedError on one that is not finite, or on growth."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.first: list[float] = []
        self.recent: list[float] = []

    def check(self, losses: Iterable[float]) -> None:
        """Take the losses of further steps."""
        for loss in losses:
            if not math.isfinite(loss):
                self._stop(f"the loss became {loss}")
            if len(self.first) < WINDOW:
                self.first.append(loss)
                continue
            self.recent = [*self.recent[1 - WINDOW :], loss]
            now, then = _mean(self.recent), _mean(self.first)
            if len(self.recent) == WINDOW and now > LARGEST_GROWTH * then:
                self._stop(f"the loss grew from {then:.4g} to {now:.4g}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"first": self.first, "recent": self.recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.first, self.recent = list(state["first"]), list(state["recent"])

    def _stop(self, found: str) -> None:
        raise DivergedError(
            f"{found}; lower learning_rate (now {self.learning_rate:g}) or max_gradient_norm"
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
