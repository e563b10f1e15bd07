"""The hand-off to the one thread that owns the backend, without ROS."""

import threading
import time

import pytest
from support import live

from segmentation_node.accounting import Counts, FrameCounters
from segmentation_node.ros.worker import EVERY_CAPACITY, Frame, FrameQueue, Worker

SOON_S = 30.0
assert live  # skips this file, loudly, where ROS is missing


def frame(number):
    return Frame(number, time.monotonic(), 0)


def open_queue(policy):
    counters = FrameCounters()
    queue = FrameQueue(policy, counters)
    queue.open()
    return queue, counters


def eventually(condition):
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_latest_keeps_the_newest():
    queue, counters = open_queue("latest")
    for number in range(5):
        queue.put(frame(number))
    assert counters.snapshot() == Counts(received=5, dropped=4, queued=1)
    assert queue.get(0.0).message == 4
    assert queue.get(0.0) is None


def test_every_blocks_when_full_and_keeps_the_order():
    queue, counters = open_queue("every")
    thread = threading.Thread(target=lambda: [queue.put(frame(number)) for number in range(9)])
    thread.start()
    eventually(lambda: counters.snapshot().received == EVERY_CAPACITY + 1)
    time.sleep(0.05)
    assert counters.snapshot().received == EVERY_CAPACITY + 1
    assert [queue.get(SOON_S).message for _ in range(9)] == list(range(9))
    thread.join(SOON_S)
    assert counters.snapshot() == Counts(received=9, queued=9)  # none booked yet


def test_close_lets_blocked_callers_go_and_books_what_waits():
    queue, counters = open_queue("every")
    count = EVERY_CAPACITY + 1
    thread = threading.Thread(target=lambda: [queue.put(frame(number)) for number in range(count)])
    thread.start()
    eventually(lambda: counters.snapshot().received == count)
    queue.close()
    assert queue.settle(SOON_S)
    assert counters.snapshot() == Counts(received=count, dropped=count)
    thread.join(SOON_S)
    queue.put(frame(9))
    assert counters.snapshot().received == count


def test_settle_waits_for_the_frame_in_hand():
    queue, _ = open_queue("latest")
    queue.put(frame(1))
    queue.get(0.0)
    queue.close()
    assert not queue.settle(0.01)
    queue.done()
    assert queue.settle(0.01)


def test_everything_happens_on_one_thread():
    queue, _ = open_queue("every")
    names = []

    def note(*_):
        names.append(threading.current_thread().name)
        return "resource"

    worker = Worker(note, note, note, queue)
    assert worker.start() == "resource"
    queue.put(frame(1))
    eventually(lambda: len(names) == 2)
    assert worker.stop(SOON_S)
    assert names == ["segmentation worker"] * 3
    assert worker.stop(SOON_S)


def test_start_raises_what_opening_raised():
    def fail():
        raise ValueError("no such model")

    worker = Worker(fail, print, print, open_queue("latest")[0])
    with pytest.raises(ValueError, match="no such model"):
        worker.start()
    assert worker.stop(SOON_S)


def test_the_thread_survives_work_that_raises(capfd):
    queue, _ = open_queue("every")
    done = []

    def work(_, item):
        if item.message == 0:
            raise RuntimeError("broken frame")
        done.append(item.message)

    worker = Worker(lambda: "resource", work, lambda _: None, queue)
    worker.start()
    for number in range(3):
        queue.put(frame(number))
    eventually(lambda: done == [1, 2])
    assert worker.stop(SOON_S)
    assert "RuntimeError: broken frame" in capfd.readouterr().err
