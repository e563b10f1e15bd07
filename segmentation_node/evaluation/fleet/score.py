"""Score one drive in a worker: as ``evaluation bag`` and ``dataset`` do, into one report."""

import json
import os
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Iterator, Optional

from segmentation_node.backends import BackendOptions
from segmentation_node.errors import BagError, SegmentationError, reason
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.fleet.drives import Drive, Settings
from segmentation_node.evaluation.fleet.storage import file_system, is_url, open_folder
from segmentation_node.evaluation.offline import score_frames, segmented
from segmentation_node.evaluation.run.provenance import run_facts
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.sources import (
    BagOptions,
    CameraSource,
    DatasetSource,
    Frames,
    Source,
    import_bags,
)
from segmentation_node.labels import describe, read_grouping
from segmentation_node.model_card import open_model
from segmentation_node.pipeline import Segmenter, open_segmenter


@dataclass(frozen=True)
class Task:
    """A drive and how it is scored: what an executor hands to a worker."""

    drive: Drive
    settings: Settings


@dataclass(frozen=True)
class Outcome:
    """That a drive was scored; or the one line that says why not."""

    drive: Drive
    error: Optional[str] = None


def score_drive(task: Task) -> Outcome:
    """Leave the drive's report in the output folder, or raise OSError where that can't be written.

    A drive that cannot be scored leaves its line there instead.
    """
    try:
        run = _scored(task)
        run.require_a_frame()
    except Exception as error:  # a drive may fail in ways nobody knows yet; the others go on
        line = reason(error)
        if not isinstance(error, (SegmentationError, OSError)):
            line = "%s: %s" % (type(error).__name__, line)
        return note_failure(task, line)
    folder = open_folder(task.settings.output, task.settings.endpoint_url)
    folder.write(task.drive.report_name, _report(task, run))
    folder.remove(task.drive.failure_name)
    return Outcome(task.drive)


def note_failure(task: Task, line: str) -> Outcome:
    """Leave a drive's line in the output folder."""
    content = {"drive": task.drive.name, "error": line}
    folder = open_folder(task.settings.output, task.settings.endpoint_url)
    folder.write(task.drive.failure_name, json.dumps(content) + "\n")
    return Outcome(task.drive, line)


def _report(task: Task, run: Run) -> str:
    content = {
        "drive": task.drive.name,
        "settings": task.settings.digest(),
        "predicted": describe(run.predicted),
        "truth": run.truth and describe(run.truth),
        "report": run.as_json(),
    }
    return json.dumps(content, allow_nan=False) + "\n"


def _scored(task: Task) -> Run:
    settings, name = task.settings, task.drive.name
    source: Source
    if task.drive.indices:
        dataset = open_dataset(str(settings.dataset), settings.root, settings.split)
        source = DatasetSource(dataset, str(settings.dataset))
        run = _run(settings, source, source.frames(task.drive.indices))
        run.source["left_out"] = source.warnings()
        return run
    options = BagOptions(settings.image_topic, settings.truth_topic, labels=settings.labels)
    with _local(name, settings.endpoint_url) as path, import_bags().open_bag(path) as bag:
        bag.path = name
        source = CameraSource(bag, options)
        run = _run(settings, source, source.frames())
        run.source["bag_problems"] = [line.replace(path, name) for line in source.warnings()]
    return run


def _run(settings: Settings, source: Source, found: Frames) -> Run:
    grouping = read_grouping(settings.grouping) if settings.grouping else None
    with closing(found) as frames:
        segmenter = _segmenter(settings)
        facts = run_facts(segmenter)
        run = source.new_run(segmenter.labels, facts, grouping, segmenter.geometry)
        score_frames(segmented(segmenter, frames, run, with_calibration=True), run)
    run.finish()
    return run


@lru_cache(maxsize=1)
def _segmenter(settings: Settings) -> Segmenter:
    """The worker's one, which stays open from drive to drive."""
    options = BackendOptions(
        settings.device, settings.precision, settings.num_threads, settings.engine_dir
    )
    card, geometry = open_model(settings.model, settings.size), settings.geometry()
    return open_segmenter(card, settings.backend, options, geometry=geometry)


@contextmanager
def _local(name: str, endpoint_url: Optional[str]) -> Iterator[str]:
    """The bag on this machine: as it is, or a copy in scratch (TMPDIR) as long as it is read."""
    if not is_url(name):
        yield name
        return
    files = file_system(name, endpoint_url)
    files.invalidate_cache()
    if not files.exists(name):
        raise BagError("%s: no such bag" % name)
    with tempfile.TemporaryDirectory(prefix="fleet_") as scratch:
        path = os.path.join(scratch, os.path.basename(name.rstrip("/")))
        files.get(name, path, recursive=files.isdir(name))
        yield path
