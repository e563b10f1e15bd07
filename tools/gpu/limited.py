"""Commands that are stopped, with all that they started, when their time is over."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from tools.gpu import ROOT

PATIENCE_S = 5.0
"""Between asking and ending: a training saves its weights meanwhile."""


class Ended:
    """How a command ended: ``OK``, ``STOPPED``, else its exit code in words."""

    OK = "ok"
    STOPPED = "stopped at its limit"


def run_limited(
    command: Sequence[str], seconds: float, log: BinaryIO, environment: Mapping[str, str]
) -> str:
    """Run in the project's folder; what it prints goes to the terminal and to the log."""
    if seconds <= 0:
        return Ended.STOPPED
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    reader = threading.Thread(target=_copy, args=(process, log), daemon=True)
    reader.start()
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return Ended.STOPPED
    finally:
        _end(process)
        reader.join(PATIENCE_S)
    return Ended.OK if code == 0 else f"failed ({code})"


def _copy(process: subprocess.Popen[bytes], log: BinaryIO) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        log.write(line)
        log.flush()
        sys.stdout.write(line.decode(errors="replace"))
        sys.stdout.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole process group to end, then end it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
