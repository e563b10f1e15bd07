"""From the image callback to the one thread that owns the backend."""

import threading
import traceback
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Deque, Generic, Optional, TypeVar

from segmentation_node.accounting import FrameCounters

Resource = TypeVar("Resource")

# What may wait under ``every``: 776 colour images of 640x360, 86 of 1920x1080.
BACKLOG_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Frame:
    """An image message as it came in; ``received_s`` is monotonic, ``received_ns`` ROS time."""

    message: Any
    received_s: float
    received_ns: int

    @property
    def size_bytes(self) -> int:
        """Of its pixels, raw or compressed: nearly all that it takes in memory."""
        return len(self.message.data)


class FrameQueue:
    """Hands frames over by the frame policy and books each one in the counters.

    ``latest``: holds one frame; a newer one replaces it. ``every``: holds all that come, up to
    ``BACKLOG_BYTES``; a frame that does not fit is dropped.
    """

    def __init__(self, policy: str, counters: FrameCounters) -> None:
        self._replaces = policy == "latest"
        self._counters = counters
        self._frames: Deque[Frame] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._open = False
        self._in_hand = False

    def open(self) -> None:
        """Take frames."""
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Take no more; waiting frames count as dropped."""
        with self._changed:
            self._open = False
            while self._frames:
                self._drop_oldest()

    def put(self, frame: Frame) -> None:
        """Hand a frame over; never blocks."""
        with self._changed:
            if not self._open:
                return
            self._counters.receive()
            if self._replaces and self._frames:
                self._drop_oldest()
            if self._frames and self._bytes + frame.size_bytes > BACKLOG_BYTES:
                self._counters.drop()
                return
            self._frames.append(frame)
            self._bytes += frame.size_bytes
            self._changed.notify_all()

    def get(self, timeout_s: float) -> Optional[Frame]:
        """The oldest waiting frame, or None when none came in time; tell ``done`` after work."""
        with self._changed:
            if not self._frames:
                self._changed.wait(timeout_s)
            if not self._frames:
                return None
            self._in_hand = True
            return self._take_oldest()

    def done(self) -> None:
        """The frame that ``get`` gave is booked."""
        with self._changed:
            self._in_hand = False
            self._changed.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """After ``close``: wait until every frame is booked; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_hand, timeout_s)

    def age_s(self, now_s: float) -> float:
        """How long the oldest waiting frame has been here; 0 when none waits."""
        with self._changed:
            return now_s - self._frames[0].received_s if self._frames else 0.0

    def _take_oldest(self) -> Frame:
        frame = self._frames.popleft()
        self._bytes -= frame.size_bytes
        return frame

    def _drop_oldest(self) -> None:
        self._take_oldest()
        self._counters.drop()


class Worker(Generic[Resource]):
    """Opens a resource, feeds it frames and closes it, all on one thread.

    A CUDA context, an engine and its execution belong to one thread; a segmenter does as well.
    """

    def __init__(
        self,
        open_resource: Callable[[], Resource],
        work: Callable[[Resource, Frame], None],
        close_resource: Callable[[Resource], None],
        queue: FrameQueue,
    ) -> None:
        self._open_resource = open_resource
        self._work = work
        self._close_resource = close_resource
        self._queue = queue
        self._stopping = threading.Event()
        self._opened = threading.Event()
        self._failure: Optional[BaseException] = None
        self._resource: Optional[Resource] = None
        self._thread = threading.Thread(target=self._run, name="segmentation worker", daemon=True)

    def start(self) -> Resource:
        """Start the thread and wait until the resource is open. Raises what opening raised."""
        self._thread.start()
        self._opened.wait()
        if self._failure is not None:
            raise self._failure
        assert self._resource is not None
        return self._resource

    def stop(self, timeout_s: Optional[float] = None) -> bool:
        """Finish the frame in hand, close the resource; False when it took longer than allowed."""
        self._stopping.set()
        self._queue.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            resource = self._resource = self._open_resource()
        except BaseException as failure:  # handed to the thread that waits in start()
            self._failure = failure
            return
        finally:
            self._opened.set()
        while not self._stopping.is_set():
            frame = self._queue.get(timeout_s=0.1)
            if frame is not None:
                self._handle(resource, frame)
        self._close_resource(resource)

    def _handle(self, resource: Resource, frame: Frame) -> None:
        try:
            self._work(resource, frame)
        except Exception:  # without this thread no frame would ever be booked again
            traceback.print_exc()
        finally:
            self._queue.done()
