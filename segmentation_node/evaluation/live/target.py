"""The segmentation node as a process that a replay starts, watches and ends."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence

from segmentation_node.errors import ReplayError
from segmentation_node.models import models_folder

LONGEST_TURN_S = 0.1


class NodeProcess:
    """The segmentation node as a process of its own, under ``with``."""

    def __init__(
        self, parameters: Dict[str, Any], remaps: Sequence[str] = (), log: Optional[Any] = None
    ) -> None:
        """``log`` takes what it prints, an open file; without one it goes to the terminal."""
        command = [sys.executable, "-m", "segmentation_node.ros.main", "--ros-args"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", "%s:=%s" % (name, text)]
        for remap in remaps:
            command += ["-r", remap]
        self.process = subprocess.Popen(command, env=dict(os.environ), stdout=log, stderr=log)

    def __enter__(self) -> "NodeProcess":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def check(self) -> None:
        """Raise ReplayError when the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ReplayError("the node ended with exit code %d; its log says why" % code)

    def stop(self, timeout_s: float = 10.0) -> int:
        """Ask it to end as Ctrl-C does and give its exit code; kill it when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class RunningNode:
    """A node that somebody else started: gone once nobody publishes its class map any more."""

    def __init__(self, graph: Any, target: str) -> None:
        """``graph`` is any rclpy node."""
        self._graph = graph
        self._topic = target + "/class_map"
        self._was_there = False

    def check(self) -> None:
        """Raise ReplayError when the node was there and is not any more."""
        is_there = self._graph.count_publishers(self._topic) > 0
        if self._was_there and not is_there:
            raise ReplayError("the node left: nothing publishes %s any more" % self._topic)
        self._was_there = is_there


def resident_mb(pid: int) -> float:
    """Memory that a process holds now, in MiB; NaN when it has ended."""
    try:
        with open("/proc/%d/statm" % pid) as stream:
            pages = int(stream.read().split()[1])
    except (OSError, IndexError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2.0**20


def prepare_middleware(stay_local: bool = True) -> None:
    """Give big images a large shared-memory segment and stay on this machine, unless told."""
    if stay_local:
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        if os.environ.get("ROS_DISTRO") == "humble":
            os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
    profile = os.path.join(os.path.dirname(models_folder()), "config", "fastdds_large_images.xml")
    variables = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    if os.path.isfile(profile) and not any(name in os.environ for name in variables):
        os.environ.update(dict.fromkeys(variables, os.path.abspath(profile)))


def spin_once(executor: Any, timeout_s: float) -> None:
    """One turn of an executor, a tenth of a second at most; Ctrl-C comes between turns.

    Within one it would meet rclpy's bindings, which make another error of it.
    """
    with uninterrupted():
        executor.spin_once(timeout_sec=min(LONGEST_TURN_S, max(0.0, timeout_s)))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block; KeyboardInterrupt comes after it.

    Signals reach the main thread alone: on another one the block just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: List[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda found, _: waiting.append(found)) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)
    if waiting:
        raise KeyboardInterrupt
