"""What every command does around its run: a progress bar, Ctrl-C, tables and files."""

import os
import sys
from contextlib import contextmanager
from functools import partial
from typing import Any, Iterator, Optional

from segmentation_node.errors import BackendError, OutputError, ReplayError
from segmentation_node.evaluation import report
from segmentation_node.evaluation.commands.options import OutputOptions
from segmentation_node.evaluation.report.page import PAGE_MARK, run_page
from segmentation_node.evaluation.run.run import Run
from segmentation_node.files import check_file, write_whole


def progress_bar(frames: Optional[int]) -> Any:
    """Wraps an iterable of this many frames: rate and time left on a terminal."""
    from tqdm import tqdm

    return partial(tqdm, total=frames, unit="frame", disable=None)


@contextmanager
def reported(run: Run, options: OutputOptions) -> Iterator[None]:
    """Report a run when the block that fills it ends.

    Ctrl-C, a node that leaves, or a backend that fails ends it early: what was counted until then
    is reported and marked as partial, and the error goes on. Raises DatasetError when no frame
    could be scored; OutputError, before any is, where a report would take the place of a file that
    is none, or of the other.
    """
    if options.json and options.html and _same_file(options.json, options.html):
        raise OutputError("--json and --html name the same file, %s: name two" % options.json)
    if options.json:
        check_file(options.json, "a report's figures", '"temporal_consistency"')
    if options.html:
        check_file(options.html, "a report's page", PAGE_MARK)
    try:
        yield
    except KeyboardInterrupt:
        _report(run, options, partial=True)
        raise KeyboardInterrupt("the report is of the frames until then") from None
    except (ReplayError, BackendError) as error:
        if len(run.frames) or isinstance(error, ReplayError):
            _report(run, options, partial=True)
        raise
    _report(run, options)


def _report(run: Run, options: OutputOptions, partial: bool = False) -> None:
    """Print the tables; write what ``--json`` and ``--html`` name."""
    run.finish(partial)
    if not partial:
        run.require_a_frame()
    frames = len(run.frames) + len(run.skipped) + len(run.lost_frames)
    result = run.as_json()
    print(report.run_text(result))
    if run.skipped:
        print("warning: %d of %d frames skipped" % (len(run.skipped), frames), file=sys.stderr)
    if options.json:
        report.write_json(options.json, result)
    if options.html:
        write_whole(options.html, run_page(run, result))


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
