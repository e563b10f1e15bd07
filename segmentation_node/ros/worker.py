"""From the image callback to the one thread that owns the backend."""

import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Deque, Generic, List, Optional, Sequence, TypeVar

from segmentation_node.accounting import FrameCounters
from segmentation_node.errors import SegmentationError

Resource = TypeVar("Resource")

# What may wait under ``every``: 776 colour images of 640x360, 86 of 1920x1080.
BACKLOG_BYTES = 512 * 2**20
LOOK_S = 0.1


@dataclass(frozen=True)
class Frame:
    """An image message as it came in; ``received_s`` is monotonic, ``received_ns`` ROS time.

    ``camera`` is the number of the camera that it is from.
    """

    message: Any
    received_s: float
    received_ns: int
    camera: int = 0

    @property
    def size_bytes(self) -> int:
        """Of its pixels, raw or compressed: nearly all that it takes in memory."""
        return len(self.message.data)


class FrameQueue:
    """Hands frames over by the frame policy and books each one in its camera's counters.

    Cameras are served in turn, whichever has a frame. ``latest``: holds one frame of each; a newer
    one replaces it. ``every``: holds all that come, up to ``BACKLOG_BYTES`` of all cameras; a frame
    that does not fit is dropped, unless it is the only one of its camera.
    """

    def __init__(
        self, policy: str, counters: Sequence[FrameCounters], gather_s: float = 0.0
    ) -> None:
        """``counters`` are those of the cameras, by number.

        A frame waits up to ``gather_s`` for those of other cameras that can be taken with it.
        """
        self._gather_s = gather_s
        self._expected = [False for _ in counters]
        self._replaces = policy == "latest"
        self._counters = counters
        self._frames: List[Deque[Frame]] = [deque() for _ in counters]
        self._next = 0  # the camera whose turn it is
        self._bytes = 0
        self._changed = threading.Condition()
        self._open = False
        self._in_hand = False

    def open(self) -> None:
        """Take frames, and count them from zero."""
        with self._changed:
            # At once: a frame of the last subscription, still on its way, may come between.
            for counters in self._counters:
                counters.reset()
            self._open = True

    def close(self) -> None:
        """Take no more; waiting frames count as dropped."""
        with self._changed:
            self._open = False
            for camera in self._waiting():
                while self._frames[camera]:
                    self._drop_oldest(camera)

    def expect(self, camera: int, is_expected: bool) -> None:
        """Whether frames of a camera are worth waiting for."""
        with self._changed:
            self._expected[camera] = is_expected
            self._changed.notify_all()

    def put(self, frame: Frame) -> None:
        """Hand a frame over; never blocks."""
        with self._changed:
            if not self._open:
                return
            waiting, counters = self._frames[frame.camera], self._counters[frame.camera]
            counters.receive()
            if self._replaces and waiting:
                self._drop_oldest(frame.camera)
            if waiting and self._bytes + frame.size_bytes > BACKLOG_BYTES:
                counters.drop()
                return
            waiting.append(frame)
            self._bytes += frame.size_bytes
            self._changed.notify_all()

    def get(self, timeout_s: float, most: int = 1) -> List[Frame]:
        """The oldest waiting frame of each of up to ``most`` cameras; empty when none came in time.

        Tell ``done`` after work.
        """
        with self._changed:
            if not self._waiting():
                self._changed.wait(timeout_s)
            if most > 1 and self._gather_s > 0.0 and self._waiting():
                self._gather(most)
            taken = [self._take_oldest(camera) for camera in self._waiting()[:most]]
            if taken:
                self._next = taken[-1].camera + 1
                self._in_hand = True
            return taken

    def done(self) -> None:
        """The frames that ``get`` gave are booked."""
        with self._changed:
            self._in_hand = False
            self._changed.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """After ``close``: wait until every frame is booked; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_hand, timeout_s)

    def age_s(self, camera: int, now_s: float) -> float:
        """How long the oldest waiting frame of a camera has been here; 0 when none waits."""
        with self._changed:
            waiting = self._frames[camera]
            return now_s - waiting[0].received_s if waiting else 0.0

    def _gather(self, most: int) -> None:
        """Wait until as many cameras have a frame as can, or the first frame has waited enough."""
        oldest_s = min(self._frames[camera][0].received_s for camera in self._waiting())
        left_s = oldest_s + self._gather_s - time.monotonic()

        def enough() -> bool:
            waiting = len(self._waiting())
            return not waiting or waiting >= min(most, sum(self._expected))

        if left_s > 0.0:
            self._changed.wait_for(enough, left_s)

    def _waiting(self) -> List[int]:
        """Cameras with a frame, the one whose turn it is first."""
        cameras = range(len(self._frames))
        turns = [*cameras[self._next :], *cameras[: self._next]]
        return [camera for camera in turns if self._frames[camera]]

    def _take_oldest(self, camera: int) -> Frame:
        frame = self._frames[camera].popleft()
        self._bytes -= frame.size_bytes
        return frame

    def _drop_oldest(self, camera: int) -> None:
        self._take_oldest(camera)
        self._counters[camera].drop()


class Worker(Generic[Resource]):
    """Opens a resource, feeds it frames and closes it, all on one thread.

    A CUDA context, an engine and its execution belong to one thread; a segmenter does as well.
    Hence another resource comes with a worker of its own: it is opened beside the old one, which
    ``give_way`` ends between two frames.
    """

    def __init__(
        self,
        open_resource: Callable[[], Resource],
        work: Callable[[Resource, List[Frame]], None],
        close_resource: Callable[[Resource], None],
        queue: FrameQueue,
        most_frames: Callable[[Resource], int] = lambda resource: 1,
    ) -> None:
        """``most_frames`` says how many frames, each of another camera, the resource may get."""
        self._most_frames = most_frames
        self._open_resource = open_resource
        self._work = work
        self._close_resource = close_resource
        self._queue = queue
        self._stopping = threading.Event()
        self._opened = threading.Event()
        self._serving = threading.Event()  # or stopped before that
        self._ended = threading.Event()  # takes no more frames
        self._failure: Optional[BaseException] = None
        self._resource: Optional[Resource] = None
        self._thread = threading.Thread(target=self._run, name="segmentation worker", daemon=True)

    def open(self, abandoned: Callable[[], bool] = lambda: False) -> Resource:
        """Start the thread and wait until the resource is open. Raises what opening raised.

        ``abandoned`` is asked meanwhile: once it is, the worker gives way, and this raises
        SegmentationError.
        """
        self._thread.start()
        while not self._opened.wait(LOOK_S):
            if abandoned():
                self.give_way()
                raise SegmentationError("the node left its state while the model was loading")
        if self._failure is not None:
            raise self._failure
        assert self._resource is not None
        return self._resource

    def serve(self) -> None:
        """Take frames from now on, after ``open``."""
        self._serving.set()

    def give_way(self) -> None:
        """Take no more frames, once those in hand are finished; the resource is closed then."""
        self._stopping.set()
        self._serving.set()

    def wait_for_end(self, timeout_s: float) -> bool:
        """After ``give_way``: until it takes no more frames; False when that took too long."""
        return self._ended.wait(timeout_s)

    def stop(self, timeout_s: Optional[float] = None) -> bool:
        """Give way and wait until the resource is closed; False when that took too long."""
        self.give_way()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            resource = self._resource = self._open_resource()
        except BaseException as failure:  # handed to the thread that waits in open()
            self._failure = failure
            return
        finally:
            self._opened.set()
        self._serving.wait()
        while not self._stopping.is_set():
            frames = self._queue.get(LOOK_S, self._most_frames(resource))
            if frames:
                self._handle(resource, frames)
        self._ended.set()
        self._close_resource(resource)

    def _handle(self, resource: Resource, frames: List[Frame]) -> None:
        try:
            self._work(resource, frames)
        except Exception:  # without this thread no frame would ever be booked again
            traceback.print_exc()
        finally:
            self._queue.done()
