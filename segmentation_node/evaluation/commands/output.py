"""What every command does around its run: a progress bar, Ctrl-C, tables and files."""

import os
import sys
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, Optional

from segmentation_node.errors import BackendError, OutputError, ReplayError
from segmentation_node.evaluation.commands.options import OutputOptions
from segmentation_node.evaluation.report.page import PAGE_MARK, run_page
from segmentation_node.evaluation.report.text import run_text, show, write_json
from segmentation_node.evaluation.run.run import Run
from segmentation_node.files import check_file, write_whole

JSON_MARK = '"temporal_consistency"'


def progress_bar(frames: Optional[int]) -> Any:
    """Wraps an iterable of this many frames: rate and time left on a terminal."""
    from tqdm import tqdm

    return partial(tqdm, total=frames, unit="frame", disable=None)


def check_outputs(json: Optional[str], html: Optional[str], what: str, mark: str) -> None:
    """Raise OutputError where a report would take the place of another's file, or of the other.

    ``what`` the figures are, and the text ``mark`` that tells a file of them.
    """
    if json and html and os.path.realpath(json) == os.path.realpath(html):
        raise OutputError("--json and --html name the same file, %s: name two" % json)
    if json:
        check_file(json, what, mark)
    if html:
        check_file(html, "a report's page", PAGE_MARK)


def hand_out(
    text: str,
    figures: Dict[str, Any],
    json: Optional[str],
    html: Optional[str] = None,
    page: Callable[[], str] = str,
) -> None:
    """Write the figures and the page to the files that are named, then print the text.

    A closed pipe costs no file, and a full disk no figure.
    """
    try:
        if json:
            write_json(json, figures)
        if html:
            write_whole(html, page())
    finally:
        show(text)


@contextmanager
def reported(run: Run, options: OutputOptions) -> Iterator[None]:
    """Report a run when the block that fills it ends.

    Ctrl-C, a node that leaves, or a backend that fails ends it early: what was counted until then
    is reported and marked as partial, and the error goes on. Raises DatasetError when no frame
    could be scored; OutputError, before any is, where a report would take the place of a file that
    is none, or of the other.
    """
    check_outputs(options.json, options.html, "a report's figures", JSON_MARK)
    try:
        yield
    except KeyboardInterrupt:
        _report(run, options, is_partial=True)
        raise KeyboardInterrupt("the report is of the frames until then") from None
    except (ReplayError, BackendError) as error:
        if len(run.frames) or isinstance(error, ReplayError):
            _report(run, options, is_partial=True)
        raise
    _report(run, options)


def _report(run: Run, options: OutputOptions, is_partial: bool = False) -> None:
    """Write what ``--json`` and ``--html`` name; print the tables."""
    run.finish(is_partial)
    if not is_partial:
        run.require_a_frame()
    frames = len(run.frames) + len(run.skipped) + len(run.lost_frames)
    result = run.as_json()
    page = partial(run_page, run, result)
    hand_out(run_text(result), result, options.json, options.html, page)
    if run.skipped:
        print("warning: %d of %d frames skipped" % (len(run.skipped), frames), file=sys.stderr)
