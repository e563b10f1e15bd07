"""Engines that place drives on workers; each gives the outcomes as they come, in no order."""

import multiprocessing
import os
from multiprocessing import connection, get_context
from threading import Thread
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from segmentation_node.errors import FleetError, reason
from segmentation_node.evaluation.fleet.score import Outcome, Task, note_failure, score_drive


class Placement(NamedTuple):
    """So many workers with so many threads each, and how often a dead worker's drive is retried.

    ``gpus_per_drive`` and ``address`` (of a running cluster) are Ray's.
    """

    jobs: int
    threads: int
    retries: int
    gpus_per_drive: float = 0.0
    address: Optional[str] = None


def run_local(tasks: Sequence[Task], placement: Placement) -> Iterator[Outcome]:
    """Worker processes on this machine. One that dies is replaced, and its drive tried again."""
    waiting: List[Tuple[Task, int]] = [(task, placement.retries) for task in reversed(tasks)]
    workers = [_Worker() for _ in range(min(placement.jobs, len(tasks)))]
    try:
        while workers:
            for index, worker in enumerate(workers):
                if worker.busy is None and waiting:
                    workers[index] = worker = worker.alive()
                    worker.start(*waiting.pop())
            workers = [worker for worker in workers if worker.busy is not None or worker.end()]
            if workers:
                yield from _ready(workers, waiting)
    finally:
        for worker in workers:
            worker.end()


def _ready(workers: List["_Worker"], waiting: List[Tuple[Task, int]]) -> Iterator[Outcome]:
    """What came of the drives of those workers that are done or dead."""
    ready = set(connection.wait([worker.pipe for worker in workers]))
    for worker in workers:
        if worker.pipe not in ready or worker.busy is None:
            continue
        (task, retries), worker.busy = worker.busy, None
        try:
            found = worker.pipe.recv()
        except (EOFError, OSError):
            # Waited for: while it still dies it would count as alive and get the drive again.
            code = worker.exit_code()
            if retries > 0:
                waiting.append((task, retries - 1))
                continue
            yield note_failure(task, "%s: its worker ended, exit %s" % (task.drive.name, code))
            continue
        if isinstance(found, Exception):
            raise found
        yield found


class _Worker:
    """A process that scores drives one after the other."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.busy: Optional[Tuple[Task, int]] = None
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def alive(self) -> "_Worker":
        """This one, or another where it has died."""
        if self._process.is_alive():
            return self
        self.end()
        return _Worker()

    def start(self, task: Task, retries: int) -> None:
        """Hand a drive to it."""
        self.busy = (task, retries)
        try:
            self.pipe.send(task)
        except OSError:
            pass  # it died a moment ago: reading its answer tells

    def exit_code(self) -> Optional[int]:
        """What it ended with; negative: by this signal."""
        self._process.join()
        return self._process.exitcode

    def end(self) -> bool:
        """End it; False."""
        self.pipe.close()
        self._process.terminate()
        self._process.join()
        return False


def _work(pipe: Any) -> None:
    """A worker's life. Ctrl-C is the driver's to answer; without a driver there is no worker."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_driver, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            found: Any = score_drive(task)
        except OSError as error:
            found = FleetError(reason(error))
        except Exception as error:
            found = error
        pipe.send(found)


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        connection.wait([driver.sentinel])
        os._exit(1)


def run_ray(tasks: Sequence[Task], placement: Placement) -> Iterator[Outcome]:
    """Ray tasks, on the cluster at ``address`` or on one of this machine alone.

    Ray runs a drive whose worker or machine is lost again. Raises FleetError where Ray is missing
    or the cluster cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = _import_ray()
    _connect(ray, placement)
    remote = ray.remote(
        num_cpus=placement.threads,
        num_gpus=placement.gpus_per_drive,
        max_retries=placement.retries,
    )(score_drive)
    waiting = list(reversed(tasks))
    running: Dict[Any, Task] = {}
    try:
        while waiting or running:
            while waiting and len(running) < placement.jobs:
                task = waiting.pop()
                running[remote.remote(task)] = task
            for done in ray.wait(list(running))[0]:
                yield _ray_outcome(ray, done, running.pop(done))
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise FleetError(
            "--executor ray needs Ray: run make setup-fleet (%s)" % reason(error)
        ) from error
    return ray


def _connect(ray: Any, placement: Placement) -> None:
    local = {} if placement.address else {"num_cpus": placement.jobs * placement.threads}
    try:
        ray.init(
            address=placement.address or "local",
            include_dashboard=None if placement.address else False,
            log_to_driver=False,
            logging_level="ERROR",
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FleetError(
            "Ray at %s: %s" % (placement.address or "this machine", reason(error))
        ) from error


def _ray_outcome(ray: Any, done: Any, task: Task) -> Outcome:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:  # the report could not be written
        raise FleetError(reason(error.cause)) from error
    except ray.exceptions.RayError as error:
        return note_failure(task, "%s: %s" % (task.drive.name, reason(error)))


EXECUTORS: Dict[str, Callable[[Sequence[Task], Placement], Iterator[Outcome]]] = {
    "local": run_local,
    "ray": run_ray,
}
