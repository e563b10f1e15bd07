"""What ``auto`` means for a card on this machine: which run time, and in which precision.

An accelerator comes first, in the order of ``BACKENDS``. On a CPU what could run the card is timed
on the model itself; the times are kept in ``choices.json`` in the engine folder, and hold for the
same files, machine and versions. A low precision takes part where the card says that it keeps the
classes.
"""

import json
import os
import platform
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Type, TypeVar

import numpy as np

from segmentation_node.backends import (
    BACKENDS,
    Backend,
    BackendOptions,
    backend_class,
    open_backend,
)
from segmentation_node.backends.cpu import adds_int8_exactly, cpu_info
from segmentation_node.errors import BackendError, ContentError, OutputError, reason
from segmentation_node.files import alone_in, check_file, write_whole
from segmentation_node.model_card import NO_WEIGHTS, AccuracyInfo, ModelCard
from segmentation_node.yaml_and_json import read_json

AUTO = "auto"
MOST_LOSS = 0.005
"""Of the mean IoU, 0-1, with which a precision keeps the classes."""
TIMING_S = 2.0
MOST_WAIT_S = 60.0
"""For others that measure: each may load all run times first."""
ROUNDS, RUNS_OF_A_TURN = 10, 3
NOT_TIMED = "torch"
"""On a CPU it took longer than OpenVINO wherever it was measured, and loads for seconds."""
CHOICES_FILE = "choices.json"
MARK = "segmentation_node: run times that auto measured"
MOST_REMEMBERED = 64
CPU_KEYS = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")


class Candidate(NamedTuple):
    """A run time in a precision."""

    backend: str
    precision: str

    def __str__(self) -> str:
        return "%s %s" % self


Times = Dict[Candidate, float]
"""Least time of a run in ms."""
Failures = Dict[Candidate, str]
"""Why each of them cannot be opened."""
Opened = TypeVar("Opened")


class BackendChoice(NamedTuple):
    """What is taken: run time, precision, why in a few words for the log, and why in full.

    ``times_ms`` is what was measured, now or, where ``remembered``, on that day; ``warnings`` is
    what did not work, one line each.
    """

    name: str
    precision: str
    summary: str
    details: str
    times_ms: Times = {}
    remembered: str = ""
    warnings: Tuple[str, ...] = ()

    @property
    def measured(self) -> str:
        """The times, least first; empty where none were needed."""
        ranked = sorted(self.times_ms.items(), key=lambda item: item[1])
        text = ", ".join("%s %.1f ms" % item for item in ranked)
        return "%s (on %s)" % (text, self.remembered) if self.remembered else text


def choose(
    card: ModelCard,
    backend: str = AUTO,
    options: Optional[BackendOptions] = None,
    failed: Optional[Failures] = None,
) -> BackendChoice:
    """The run time and precision that ``backend`` and ``options.precision`` ask for.

    What is named is obeyed. Those that ``failed`` are left out of what is measured. Raises
    BackendError that says of each backend why it cannot be used, or that none of those that could
    be loads; CardError where a file is not the card's.
    """
    options = options or BackendOptions()
    if AUTO not in (backend, options.precision):
        return BackendChoice(backend, options.precision, "as asked", "as asked")
    possible = _possible(card, backend, options)
    if len(possible.candidates) > 1:
        return _fastest(card, possible, options, failed or {})
    return _explained(card, possible, options, possible.candidates[0], possible.short)


def open_chosen(
    card: ModelCard,
    backend: str,
    options: BackendOptions,
    open_choice: Callable[[BackendChoice], Opened],
) -> Opened:
    """What ``open_choice`` gives for the choice that ``choose`` makes of these.

    One that is remembered and cannot be opened any more is left out, with a warning, and the others
    are chosen from. Raises as ``choose`` and ``open_choice`` do.
    """
    failed: Failures = {}
    while True:
        choice = choose(card, backend, options, failed)
        try:
            return open_choice(choice)
        except BackendError as error:
            if not choice.remembered:
                raise
            failed[Candidate(choice.name, choice.precision)] = reason(error)


def keeps_classes(card: ModelCard, kind: str, precision: str) -> Tuple[bool, str]:
    """Whether an artifact of this kind keeps fp32's classes in a precision, and why (not).

    By the card: it was scored on the same frames of the same split as in fp32, and lost no more
    than ``MOST_LOSS`` on any. What is told is of the card's own size, where it was scored there.
    """
    told = ""
    # Other sizes have a height: the card's own come last.
    for low in sorted(card.accuracy, key=lambda item: item.height is None):
        if (low.artifact, low.computed_in) != (kind, precision):
            continue
        for full in card.accuracy:
            if full.computed_in != "fp32" or _scored_on(full) != _scored_on(low):
                continue
            told = "mean IoU %.1f %%, in fp32 %.1f %%, on %s %s" % (
                100 * low.mean_iou,
                100 * full.mean_iou,
                low.dataset,
                low.split,
            )
            if full.mean_iou - low.mean_iou > MOST_LOSS + 1e-9:
                return False, told
    return bool(told), told or "the card does not compare its mean IoU with fp32's"


def _scored_on(accuracy: AccuracyInfo) -> Tuple[Any, ...]:
    size = accuracy.height, accuracy.width
    return size + (accuracy.dataset, accuracy.split, accuracy.frames)


# What could run it


class _Possible:
    """What is to be chosen from, why that, short and long, and why others cannot be, by name."""

    def __init__(
        self, usable: Dict[str, Dict[str, str]], refusals: Dict[str, str], short: str, place: str
    ) -> None:
        """``usable``: by run time and precision why it is left out, or an empty text."""
        self.candidates: List[Candidate] = []
        self.refusals, self.short, self.place = dict(refusals), short, place
        for name, reasons in usable.items():
            for precision, why in reasons.items():
                candidate = Candidate(name, precision)
                if why:
                    self.refusals[str(candidate)] = why
                else:
                    self.candidates.append(candidate)


def _possible(card: ModelCard, backend: str, options: BackendOptions) -> _Possible:
    """Raises BackendError where nothing can run the card."""
    refusals: Dict[str, str] = {}
    usable: Dict[str, Dict[str, str]] = {}
    for name in BACKENDS if backend == AUTO else [backend]:
        reasons = _reasons_against(name, card, options)
        if all(reasons.values()):
            refusals[name] = next(iter(reasons.values()))
        elif _takes_accelerator(name, options):
            place = "it can use this machine's accelerator"
            return _Possible({name: reasons}, refusals, "on the GPU", place)
        else:
            usable[name] = reasons
    if not usable:
        raise BackendError("no backend can run %s: %s" % (card.name, _listed(refusals)))
    place = "no accelerator can be used; it runs on the CPU"
    if NOT_TIMED in usable and len(usable) > 1:
        del usable[NOT_TIMED]
        place += "; %s could too, but is not timed" % NOT_TIMED
    return _Possible(usable, refusals, "alone here", place)


def _takes_accelerator(name: str, options: BackendOptions) -> bool:
    if options.device.startswith("cuda"):
        return True
    return options.device != "cpu" and BACKENDS[name].accelerated()


def _reasons_against(name: str, card: ModelCard, options: BackendOptions) -> Dict[str, str]:
    """By precision that is in question, why it cannot be taken; empty: it can."""
    backend = backend_class(name)
    if options.precision != AUTO:
        return {options.precision: _refusal(backend, card, options)}
    reasons = {}
    for precision in backend.precisions:
        why = _refusal(backend, card, replace(options, precision=precision))
        reasons[precision] = why or _loss(backend, card, precision)
    return reasons


def _loss(backend: Type[Backend], card: ModelCard, precision: str) -> str:
    """Why a precision that nobody named may change the classes; empty: it keeps them."""
    if precision == "fp32":
        return ""
    if precision == "int8" and not adds_int8_exactly():
        return "this CPU has no VNNI: sums of int8 products may saturate"
    keeps, told = keeps_classes(card, backend.kind_for(precision), precision)
    return "" if keeps else told


def _refusal(backend: Type[Backend], card: ModelCard, options: BackendOptions) -> str:
    if options.precision not in backend.precisions:
        return "it offers no precision %r" % options.precision
    if backend.devices and options.device not in backend.devices:
        return "it offers no device %r" % options.device
    if options.execution not in backend.executions:
        return "it offers no execution %r" % options.execution
    kind = backend.kind_for(options.precision)
    if not card.offers(kind):
        command = card.command_to_add(kind)
        if kind == "weights" and card.source is not None:
            return NO_WEIGHTS
        return "the card has no %s artifact%s" % (kind, command and "; add it with: " + command)
    return backend.unavailable() or backend.unready(card, options)


# Measured


def measure(
    card: ModelCard, candidates: List[Candidate], options: BackendOptions
) -> Tuple[Times, Failures]:
    """How long each takes, and why those that do not load or run fail.

    They take turns on one image for at most ``TIMING_S``, after each was loaded and ran once; what
    is slower than that has the time of its first run. Raises CardError.
    """
    image_nhwc = np.array([])
    opened: Dict[Candidate, Backend] = {}
    times_ms: Times = {}
    failed: Failures = {}
    with ExitStack() as stack:
        for candidate in candidates:
            asked = replace(options, precision=candidate.precision)
            try:
                backend = stack.enter_context(open_backend(candidate.backend, card, asked))
                if image_nhwc.shape != backend.input_shape:
                    noise = np.random.RandomState(0).randint(0, 256, backend.input_shape)
                    image_nhwc = noise.astype(np.uint8)
                times_ms[candidate] = _timed_ms(backend, image_nhwc)
                opened[candidate] = backend
            except BackendError as error:
                failed[candidate] = reason(error)
        _take_turns(opened, image_nhwc, times_ms)
    return times_ms, failed


def _take_turns(opened: Dict[Candidate, Backend], image_nhwc: np.ndarray, times_ms: Times) -> None:
    """Lower the times to the least of several runs."""
    ends_s = time.perf_counter() + TIMING_S
    for _ in range(ROUNDS):
        for candidate, backend in opened.items():
            for _ in range(RUNS_OF_A_TURN):
                if time.perf_counter() + times_ms[candidate] * 1e-3 > ends_s:
                    return
                found_ms = _timed_ms(backend, image_nhwc)
                times_ms[candidate] = min(found_ms, times_ms[candidate])


def _timed_ms(backend: Backend, image_nhwc: np.ndarray) -> float:
    started_s = time.perf_counter()
    backend.run(image_nhwc)
    return (time.perf_counter() - started_s) * 1e3


def _fastest(
    card: ModelCard, possible: _Possible, options: BackendOptions, failed: Failures
) -> BackendChoice:
    candidates = [candidate for candidate in possible.candidates if candidate not in failed]
    memory = _Memory(card, candidates, options)
    notes: List[str] = []
    times_ms, day = memory.recall()
    if not times_ms:
        # Nodes that start together would disturb one another, and may be after the same times.
        with alone_in(memory.folder, MOST_WAIT_S) as is_alone:
            times_ms, day = memory.recall()
            if not times_ms:
                times_ms, newly = measure(card, candidates, options)
                failed = {**failed, **newly}
                notes += memory.keep(times_ms)
        if not is_alone:
            waited = "others measured for over %.0f s, and disturb what is measured" % MOST_WAIT_S
            notes.append(waited)
    refusals = {str(candidate): why for candidate, why in failed.items()}
    if not times_ms:
        raise BackendError("no backend can run %s: %s" % (card.name, _listed(refusals)))
    notes += ["left out %s, which failed: %s" % item for item in refusals.items()]
    best = min(times_ms, key=lambda candidate: times_ms[candidate])
    possible.refusals.update(refusals)
    short = "fastest of %d, %.1f ms" % (len(times_ms), times_ms[best])
    return _explained(card, possible, options, best, short)._replace(
        times_ms=times_ms, remembered=day, warnings=tuple("auto: " + note for note in notes)
    )


def _explained(
    card: ModelCard, possible: _Possible, options: BackendOptions, taken: Candidate, short: str
) -> BackendChoice:
    details = possible.place
    if options.precision == AUTO:
        short = "%s, %s" % (taken.precision, short)
        if taken.precision != "fp32":
            kind = BACKENDS[taken.backend].kind_for(taken.precision)
            told = keeps_classes(card, kind, taken.precision)[1]
            details += "; %s keeps the classes: %s" % (taken.precision, told)
    if possible.refusals:
        short += "; not %s" % ", ".join(possible.refusals)
        details += "; " + _listed(possible.refusals)
    return BackendChoice(taken.backend, taken.precision, "auto: " + short, details)


def _listed(refusals: Dict[str, str]) -> str:
    return "; ".join("%s: %s" % refusal for refusal in refusals.items())


# Remembered


class _Memory:
    """Times of these candidates, in a file beside those of other models, machines and versions."""

    def __init__(
        self, card: ModelCard, candidates: List[Candidate], options: BackendOptions
    ) -> None:
        self.folder = os.path.expanduser(options.engine_dir)
        self._path = os.path.join(self.folder, CHOICES_FILE)
        self._candidates = candidates
        self._of = _conditions(card, candidates, options)

    def recall(self) -> Tuple[Times, str]:
        """The times and their day; nothing where there are none."""
        for item in self._read()[0]:
            if item.get("of") == self._of and len(item["times_ms"]) == len(self._candidates):
                return dict(zip(self._candidates, item["times_ms"])), item["day"]
        return {}, ""

    def keep(self, times_ms: Times) -> List[str]:
        """Put times beside the others, the oldest of which make room; what was wrong, or is.

        Where some have none they are not kept: the next start tries those again, and says so again.
        """
        known, problem = self._read()
        said = ["%s; measured anew" % problem] if problem else []
        if not times_ms or len(times_ms) < len(self._candidates):
            return said
        times = [round(value, 3) for value in times_ms.values()]
        entry = {"of": self._of, "times_ms": times, "day": time.strftime("%Y-%m-%d")}
        kept = [item for item in known if item.get("of") != self._of][1 - MOST_REMEMBERED :]
        content = json.dumps({"about": MARK, "measured": kept + [entry]}, indent=1)
        try:
            check_file(self._path, "what auto remembers", MARK)
            write_whole(self._path, content + "\n")
        except OutputError as error:
            said = ["; ".join(said + [str(error)])]
        return said

    def _read(self) -> Tuple[List[Dict[str, Any]], str]:
        """What was measured before; nothing, and why, where the file is none of that."""
        if not os.path.lexists(self._path):
            return [], ""
        try:
            content = read_json(self._path)
        except ContentError as error:
            return [], str(error)
        known = content.get("measured") if isinstance(content, dict) else None
        if not isinstance(known, list) or not all(map(_is_measurement, known)):
            return [], "%s: not what auto remembers" % self._path
        return known, ""


def _conditions(
    card: ModelCard, candidates: List[Candidate], options: BackendOptions
) -> Dict[str, Any]:
    """What times hold for, as JSON gives it back."""
    return {
        "machine": _machine(),
        "threads": options.threads,
        "device": options.device,
        "execution": options.execution,
        "candidates": [
            [
                name,
                precision,
                card.artifact(BACKENDS[name].kind_for(precision), options.batch).sha256,
                str(getattr(sys.modules.get(name), "__version__", "")),  # they are modules' names
            ]
            for name, precision in candidates
        ],
    }


def _machine() -> str:
    info = cpu_info()
    parts = [platform.machine()] + [info[key] for key in CPU_KEYS if key in info]
    return "%s, %d cores" % (" ".join(parts), len(os.sched_getaffinity(0)))


def _is_measurement(item: Any) -> bool:
    times = item.get("times_ms") if isinstance(item, dict) else None
    return (
        isinstance(times, list)
        and all(isinstance(value, (int, float)) and 0 < value < 1e9 for value in times)
        and isinstance(item.get("day"), str)
        and len(item["day"]) <= len("2026-01-01")
    )
