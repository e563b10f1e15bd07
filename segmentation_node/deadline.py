"""Which of a model's sizes runs: the best that keeps p95 of processing under a deadline.

The sizes are the rungs of a ladder. It is stepped down as soon as p95 is above the deadline, and up
again only after a time of calm, which doubles with every climb that does not hold.
"""

from collections import deque
from typing import Deque, List, NamedTuple, Optional, Sequence, Tuple

from segmentation_node.model_card import ModelCard, size_text

# With four of sixty runs above it p95 is.
WINDOW, MOST_MISSES = 60, 3
# Frames that came before a step have waited for the rung before; of so many runs at most.
LONGEST_SETTLING = 5
# To climb, p95 has to be this far below the deadline: a larger size takes longer.
CALM_SHARE = 0.8
LEAST_CALM_RUNS = 20
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 60.0


class Rung(NamedTuple):
    """A card at one of its sizes, and its mean IoU; None where the sizes cannot be compared."""

    card: ModelCard
    mean_iou: Optional[float]

    @property
    def text(self) -> str:
        """For people, like ``240x320 (mean IoU 0.612)``."""
        size = size_text(self.card.input_size)
        return size if self.mean_iou is None else "%s (mean IoU %.3f)" % (size, self.mean_iou)


def rungs_of(card: ModelCard, kind: str, precision: str) -> List[Rung]:
    """The sizes at which there is an artifact of this kind, the best first.

    By the mean IoU on the first data of which the card has a figure for all of them, and then
    without those that are larger than another and no better; else by size.
    """
    # Of a kind that the card has not loading says so.
    cards = [card.at_size(size) for size in card.sizes(kind) or [card.input_size]]
    figures = [item.mean_ious(kind, precision) for item in cards]
    for data in figures[0]:
        if all(data in item for item in figures):
            scores = [item[data] for item in figures]
            return [
                Rung(item, score)
                for place, (item, score) in enumerate(zip(cards, scores))
                if all(score > smaller for smaller in scores[place + 1 :])
            ]
    return [Rung(item, None) for item in cards]


class Ladder:
    """Steps between rungs, of which 0 is the best, by how long frames take.

    Belongs to one thread; its counters may be read from others.
    """

    def __init__(self, deadline_ms: float, rungs: Sequence[str]) -> None:
        """``rungs`` are what they are called, the best first."""
        self.deadline_ms = deadline_ms
        self.rung = 0
        self.steps_down = self.steps_up = 0
        self.missed = 0  # frames
        self._rungs = list(rungs)
        self._runs_ms: Deque[float] = deque(maxlen=WINDOW)
        self._settling = 0
        self._stepped_s = self._calm_since_s = float("-inf")
        self._last_step = 0
        self._wait_s = FIRST_WAIT_S

    def look(self, frames_ms: Sequence[float], received_s: float, now_s: float) -> str:
        """Take the processing times of the frames of one run; what is done now, or empty.

        ``received_s`` is when the first of them came, ``now_s`` when they were done, on a clock
        that never goes back.
        """
        if not frames_ms:
            return ""
        self.missed += sum(value > self.deadline_ms for value in frames_ms)
        if received_s < self._stepped_s and self._settling > 0:
            self._settling -= 1
            return ""
        self._runs_ms.append(max(frames_ms))
        p95_ms = sorted(self._runs_ms)[-MOST_MISSES - 1 :][0]
        if p95_ms > CALM_SHARE * self.deadline_ms or self._calm_since_s < self._stepped_s:
            self._calm_since_s = now_s
        enough = len(self._runs_ms) > MOST_MISSES
        if enough and p95_ms > self.deadline_ms and self.rung + 1 < len(self._rungs):
            return self._step(1, p95_ms, now_s)
        enough = len(self._runs_ms) >= LEAST_CALM_RUNS
        if enough and now_s - self._calm_since_s >= self._wait_s and self.rung > 0:
            return self._step(-1, p95_ms, now_s)
        return ""

    def facts(self) -> List[Tuple[str, str]]:
        """Keys and values for whoever watches."""
        return [
            ("deadline_ms", "%g" % self.deadline_ms),
            ("rung", "%d of %d: %s" % self._place()),
            ("rungs", ", ".join(self._rungs)),
            ("steps_down", str(self.steps_down)),
            ("steps_up", str(self.steps_up)),
            ("deadline_missed", str(self.missed)),
        ]

    def _step(self, step: int, p95_ms: float, now_s: float) -> str:
        held_s = now_s - self._stepped_s
        if step > 0:
            self.steps_down += 1
            if self._last_step < 0 and held_s < self._wait_s:
                self._wait_s = min(2.0 * self._wait_s, LONGEST_WAIT_S)
            elif held_s >= self._wait_s:
                self._wait_s = FIRST_WAIT_S
        else:
            self.steps_up += 1
        self._last_step, self._stepped_s = step, now_s
        self._settling = LONGEST_SETTLING
        self._runs_ms.clear()
        self.rung += step
        return "deadline: %s to rung %d of %d, %s; p95 was %.1f ms, deadline_ms is %g" % (
            ("down" if step > 0 else "up",) + self._place() + (p95_ms, self.deadline_ms)
        )

    def _place(self) -> Tuple[int, int, str]:
        return self.rung + 1, len(self._rungs), self._rungs[self.rung]
