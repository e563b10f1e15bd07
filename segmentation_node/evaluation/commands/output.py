"""What every command does around its run: a progress bar, Ctrl-C, tables and files."""

import argparse
import sys
from functools import partial
from typing import Any, Callable, Optional, Union

from segmentation_node.errors import BackendError, DatasetError, ReplayError
from segmentation_node.evaluation import report
from segmentation_node.evaluation.report.page import PAGE_MARK, run_page
from segmentation_node.evaluation.run.run import Run
from segmentation_node.files import check_file, write_whole

INTERRUPTED = 130
"""The exit code of a run that Ctrl-C ended, as shells have it."""


def progress_bar(frames: Optional[int]) -> Any:
    """Wraps an iterable of this many frames: rate and time left on a terminal."""
    from tqdm import tqdm

    return partial(tqdm, total=frames, unit="frame", disable=None)


def counted(run: Run, score: Callable[[], None], arguments: argparse.Namespace) -> int:
    """Let ``score`` fill the run, report it, and give the exit code.

    Ctrl-C, a node that leaves, or a backend that fails ends it early: what was counted until then
    is reported and marked as partial. Raises DatasetError when no frame could be scored, and after
    the report ReplayError of the node or BackendError; OutputError, before anything is scored,
    where a file of the user's is in the place of a report.
    """
    if arguments.json:
        check_file(arguments.json, "a report's figures", '"temporal_consistency"')
    if arguments.html:
        check_file(arguments.html, "a report's page", PAGE_MARK)
    interrupted = False
    failure: Union[ReplayError, BackendError, None] = None
    try:
        score()
    except KeyboardInterrupt:
        interrupted = True
    except (ReplayError, BackendError) as error:
        failure = error
    run.finish(partial=interrupted or failure is not None)
    if not len(run.frames) and run.skipped:
        raise DatasetError(
            "none of %d frames could be scored; the first: %s"
            % (len(run.skipped), run.skipped[0].reason)
        )
    if isinstance(failure, BackendError) and not len(run.frames):
        raise failure
    write_report(run, arguments)
    if failure is not None:
        raise failure
    if interrupted:
        print("interrupted: the report is of the frames until then", file=sys.stderr)
        return INTERRUPTED
    return 0


def write_report(run: Run, arguments: argparse.Namespace) -> None:
    """Print the tables; write what ``--json`` and ``--html`` name."""
    result = run.as_json()
    print(report.run_text(result))
    if run.skipped:
        frames = len(run.frames) + len(run.skipped)
        print("warning: %d of %d frames skipped" % (len(run.skipped), frames), file=sys.stderr)
    if arguments.json:
        report.write_json(arguments.json, result)
    if arguments.html:
        write_whole(arguments.html, run_page(run, result))
