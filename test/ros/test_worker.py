"""The hand-off to the one thread that owns the backend, without ROS."""

import threading
import time
from types import SimpleNamespace

import pytest
from support import live

from segmentation_node.accounting import Counts, FrameCounters
from segmentation_node.errors import SegmentationError
from segmentation_node.ros.worker import Frame, FrameQueue, Worker

SOON_S = 30.0
SIZE_BYTES = 12
assert live  # skips this file, loudly, where ROS is missing


def message(number):
    return SimpleNamespace(number=number, data=bytes(SIZE_BYTES))


def frame(number):
    return Frame(message(number), time.monotonic(), 0)


def number_of(frames):
    (only,) = frames
    return only.message.number


def open_queue(policy):
    counters = FrameCounters()
    queue = FrameQueue(policy, [counters])
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
    assert number_of(queue.get(0.0)) == 4
    assert queue.get(0.0) == []


def test_it_counts_from_zero_once_it_is_opened_again():
    queue, counters = open_queue("latest")
    queue.put(frame(0))
    queue.close()
    queue.open()
    assert counters.snapshot() == Counts()
    queue.put(frame(1))
    assert counters.snapshot() == Counts(received=1, queued=1)


def test_every_keeps_all_in_order_up_to_its_limit(monkeypatch):
    monkeypatch.setattr("segmentation_node.ros.worker.BACKLOG_BYTES", 5 * SIZE_BYTES)
    queue, counters = open_queue("every")
    for number in range(8):
        queue.put(frame(number))
    assert counters.snapshot() == Counts(received=8, dropped=3, queued=5)
    assert [number_of(queue.get(0.0)) for _ in range(3)] == [0, 1, 2]
    queue.put(frame(8))
    assert [number_of(queue.get(0.0)) for _ in range(3)] == [3, 4, 8]
    assert counters.snapshot() == Counts(received=9, dropped=3, queued=6)  # none booked yet


def test_every_takes_a_frame_larger_than_its_limit(monkeypatch):
    monkeypatch.setattr("segmentation_node.ros.worker.BACKLOG_BYTES", SIZE_BYTES - 1)
    queue, counters = open_queue("every")
    queue.put(frame(0))
    queue.put(frame(1))
    assert counters.snapshot() == Counts(received=2, dropped=1, queued=1)
    assert number_of(queue.get(0.0)) == 0


def test_close_books_what_waits():
    queue, counters = open_queue("every")
    for number in range(3):
        queue.put(frame(number))
    queue.close()
    assert queue.settle(SOON_S)
    assert counters.snapshot() == Counts(received=3, dropped=3)
    queue.put(frame(9))
    assert counters.snapshot().received == 3


def test_the_age_is_that_of_the_oldest_that_waits():
    queue, _ = open_queue("every")
    assert queue.age_s(0, 9.0) == 0.0
    for received_s in (1.0, 2.0):
        queue.put(Frame(message(0), received_s, 0))
    assert queue.age_s(0, 9.0) == 8.0
    queue.get(0.0)
    assert queue.age_s(0, 9.0) == 7.0


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
    assert worker.open() == "resource"
    worker.serve()
    queue.put(frame(1))
    eventually(lambda: len(names) == 2)
    assert worker.stop(SOON_S)
    assert names == ["segmentation worker"] * 3
    assert worker.stop(SOON_S)


def test_open_raises_what_opening_raised():
    def fail():
        raise ValueError("no such model")

    worker = Worker(fail, print, print, open_queue("latest")[0])
    with pytest.raises(ValueError, match="no such model"):
        worker.open()
    assert worker.stop(SOON_S)


def test_the_thread_survives_work_that_raises(capfd):
    queue, _ = open_queue("every")
    done = []

    def work(_, item):
        if number_of(item) == 0:
            raise RuntimeError("broken frame")
        done.append(number_of(item))

    worker = Worker(lambda: "resource", work, lambda _: None, queue)
    worker.open()
    worker.serve()
    for number in range(3):
        queue.put(frame(number))
    eventually(lambda: done == [1, 2])
    assert worker.stop(SOON_S)
    assert "RuntimeError: broken frame" in capfd.readouterr().err


def cameras(policy, count, gather_s=0.0):
    counters = [FrameCounters() for _ in range(count)]
    queue = FrameQueue(policy, counters, gather_s)
    queue.open()
    for camera in range(count):
        queue.expect(camera, True)
    return queue, counters


def of(camera, number=0):
    return Frame(message(number), time.monotonic(), 0, camera)


def taken(queue, most=1):
    return [(item.camera, item.message.number) for item in queue.get(0.0, most)]


def test_a_fast_camera_starves_none():
    queue, counters = cameras("latest", 3)
    served = []
    for number in range(6):
        queue.put(of(1, number))
        queue.put(of(1, number + 100))
        if number % 2 == 0:
            queue.put(of(0, number))
            queue.put(of(2, number))
        served += taken(queue)
    assert served == [(0, 0), (1, 101), (2, 2), (0, 2), (1, 104), (2, 4)]
    assert counters[1].snapshot() == Counts(received=12, dropped=9, queued=3)


def test_every_serves_replays_in_turn_and_shares_the_limit(monkeypatch):
    monkeypatch.setattr("segmentation_node.ros.worker.BACKLOG_BYTES", 4 * SIZE_BYTES)
    queue, counters = cameras("every", 2)
    for number in range(6):
        queue.put(of(0, number))
    queue.put(of(1, 9))  # its first waits, whatever the other's take
    queue.put(of(1, 10))
    assert counters[0].snapshot() == Counts(received=6, dropped=2, queued=4)
    assert counters[1].snapshot() == Counts(received=2, dropped=1, queued=1)
    assert [taken(queue)[0] for _ in range(5)] == [(0, 0), (1, 9), (0, 1), (0, 2), (0, 3)]


def test_frames_of_several_cameras_are_taken_together_one_of_each():
    queue, _ = cameras("every", 3)
    for camera, number in ((0, 1), (0, 2), (1, 3), (2, 4)):
        queue.put(of(camera, number))
    assert taken(queue, 2) == [(0, 1), (1, 3)]
    assert taken(queue, 4) == [(2, 4), (0, 2)]


def test_a_frame_waits_for_those_that_are_expected():
    queue, _ = cameras("latest", 3, gather_s=SOON_S)
    queue.expect(2, False)  # nobody listens to it
    timer = threading.Timer(0.05, lambda: queue.put(of(1)))
    queue.put(of(0))
    timer.start()
    assert taken(queue, 4) == [(0, 0), (1, 0)]
    timer.join()


def test_a_frame_waits_no_longer_than_it_may():
    queue, _ = cameras("latest", 2, gather_s=0.05)
    queue.put(of(0))
    assert taken(queue, 2) == [(0, 0)]
    queue.put(Frame(message(1), time.monotonic() - 1.0, 0, 0))
    started_s = time.monotonic()
    assert taken(queue, 2) == [(0, 1)]
    assert time.monotonic() - started_s < SOON_S


def test_a_successor_opens_beside_and_takes_over_between_two_frames():
    queue, counters = open_queue("every")
    served, in_work = [], threading.Event()
    release = threading.Event()

    def work(name, item):
        in_work.set()
        release.wait(SOON_S)
        served.append((name, number_of(item)))
        counters.process()

    old, new = (Worker(lambda n=n: n, work, lambda _: None, queue) for n in ("old", "new"))
    old.open()
    old.serve()
    queue.put(frame(0))
    assert in_work.wait(SOON_S)
    assert new.open() == "new"
    queue.put(frame(1))
    old.give_way()
    assert not old.wait_for_end(0.01), "the frame in hand is not finished"
    release.set()
    assert old.wait_for_end(SOON_S)
    new.serve()
    eventually(lambda: served == [("old", 0), ("new", 1)])
    assert old.stop(SOON_S) and new.stop(SOON_S)
    assert counters.snapshot() == Counts(received=2, processed=2)


def test_a_resource_that_nobody_waits_for_any_more_is_closed_once_it_is_open():
    go_on, closed = threading.Event(), []

    def open_slowly():
        go_on.wait(SOON_S)
        return "resource"

    worker = Worker(open_slowly, print, closed.append, open_queue("latest")[0])
    with pytest.raises(SegmentationError, match="left its state while the model was loading"):
        worker.open(abandoned=lambda: True)
    go_on.set()
    assert worker.stop(SOON_S)
    assert closed == ["resource"]
