"""Videos by their own times; what is missing at their end is told."""

import struct

import cv2
import numpy as np
import pytest

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import open_drive, recordings
from segmentation_node.evaluation.datasets.drive import START_NS
from segmentation_node.evaluation.frame import Problem

FRAMES = 30
MASTERS = {0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0x1F43B675, 0xE0}
DURATION, DEFAULT_DURATION, SIMPLE_BLOCK, CLUSTER_TIME = 0x4489, 0x23E383, 0xA3, 0xE7


def write_video(path, codec, rate_hz=15.0, frames=FRAMES):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate_hz, (64, 48))
    assert writer.isOpened()
    for number in range(frames):
        noise = np.random.RandomState(number).randint(0, 256, (48, 64, 3)).astype(np.uint8)
        writer.write(noise)
    writer.release()
    return path


def number_at(data, at, keep_marker):
    length = next(n for n in range(1, 9) if data[at] & (0x80 >> (n - 1)))
    value = int.from_bytes(data[at : at + length], "big")
    return (value if keep_marker else value & ~(1 << (7 * length))), at + length


def elements(data, at, end):
    """Matroska's elements: id, where it starts, where its content does, and its end."""
    while at < end:
        start = at
        ident, at = number_at(data, at, True)
        size, at = number_at(data, at, False)
        stop = min(at + size, end)
        if ident in MASTERS:
            yield from elements(data, at, stop)
        yield ident, start, at, stop
        at = stop


def as_a_browser_records(path):
    """Without durations, frames about 67 ms apart; gives their times in ms."""
    data, times_ms, cluster_ms = bytearray(path.read_bytes()), [], 0
    random = np.random.RandomState(7)
    for ident, start, content, stop in list(elements(data, 0, len(data))):
        if ident in (DURATION, DEFAULT_DURATION):  # becomes Void
            length = stop - start
            data[start:stop] = b"\xec" + bytes([0x80 | (length - 2)]) + bytes(length - 2)
        elif ident == CLUSTER_TIME:
            cluster_ms = int.from_bytes(data[content:stop], "big")
        elif ident == SIMPLE_BLOCK:
            (time_ms,) = struct.unpack_from(">h", data, content + 1)
            time_ms = max(0, time_ms + int(random.randint(-13, 14))) if time_ms else 0
            struct.pack_into(">h", data, content + 1, time_ms)
            times_ms.append(cluster_ms + time_ms)
    path.write_bytes(data)
    return times_ms


def read(path):
    drive = open_drive("video", str(path), "")
    return drive, list(drive.frames())


def test_frames_have_the_times_that_the_file_gives_them(tmp_path):
    path = write_video(tmp_path / "browser.webm", "VP80")
    times_ms = as_a_browser_records(path)
    drive, frames = read(path)
    assert len(frames) == FRAMES and drive.has_times and drive.notes == ()
    found_ms = [(frame.stamp_ns - START_NS) * 1e-6 for frame in frames]
    assert found_ms == pytest.approx(times_ms, abs=1.0)
    assert drive.rate_hz == pytest.approx(15, abs=2)


def test_a_steady_video_has_its_stated_rate(tmp_path):
    drive, frames = read(write_video(tmp_path / "steady.avi", "MJPG", 10.0))
    assert (len(frames), drive.length, drive.notes) == (FRAMES, FRAMES, ())
    assert drive.rate_hz == pytest.approx(10.0)
    steps_ns = np.diff([frame.stamp_ns for frame in frames])
    assert steps_ns == pytest.approx(np.full(FRAMES - 1, 10**8), rel=1e-3)


@pytest.mark.parametrize("codec", ["MJPG", "mp4v"])
def test_what_a_cut_video_lacks_is_told(tmp_path, codec):
    path = write_video(tmp_path / "cut.avi", codec, 10.0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    drive, frames = read(path)
    assert 5 < len(frames) < 25
    (note,) = drive.notes
    assert "(%d frames)" % FRAMES in note and "%d frames (" % len(frames) in note


def frames_of_avi(data):
    """Where each frame's bytes are, and how many."""
    at, end = data.index(b"movi") + 4, data.index(b"idx1")
    while at < end:
        size = struct.unpack_from("<I", data, at + 4)[0]
        if data[at : at + 4] == b"00dc":
            yield at + 8, size
        at += 8 + size + size % 2


@pytest.mark.parametrize("numbers", [[10], [5, 6, 7, FRAMES - 2]])
def test_a_broken_frame_is_named_and_those_behind_it_are_read(tmp_path, numbers):
    path = write_video(tmp_path / "torn.avi", "MJPG", 10.0)
    whole = {frame.name: frame for frame in read(path)[1]}
    data = bytearray(path.read_bytes())
    places = list(frames_of_avi(data))
    for at, size in [places[number] for number in numbers]:
        data[at : at + size] = bytes(size)
    path.write_bytes(data)
    drive, frames = read(path)
    problems = [frame for frame in frames if isinstance(frame, Problem)]
    assert [problem.name for problem in problems] == ["%06d" % number for number in numbers]
    assert problems[0].reason == "%s: frame %d cannot be decoded" % (path, numbers[0])
    assert len(frames) == FRAMES and drive.notes == ()
    for frame in frames:
        if frame not in problems:
            np.testing.assert_array_equal(frame.image_hwc, whole[frame.name].image_hwc)
            assert frame.stamp_ns == whole[frame.name].stamp_ns


def test_frames_that_are_missing_in_between_are_told(tmp_path):
    path = write_video(tmp_path / "torn.webm", "VP80", 10.0)
    data = bytearray(path.read_bytes())
    blocks = [item for item in elements(data, 0, len(data)) if item[0] == SIMPLE_BLOCK]
    for _, start, *_ in blocks[12:20]:  # becomes Void
        data[start] = 0xEC
    path.write_bytes(data)
    drive, frames = read(path)
    assert len(frames) == FRAMES - 8
    (note,) = drive.notes
    assert "at 10 frames a second 8 are missing in between" in note


def test_frames_that_no_camera_has_are_refused_before_one_is_read(tmp_path, monkeypatch):
    path = tmp_path / "huge.avi"
    write_video(path, "MJPG")
    monkeypatch.setattr(recordings, "LARGEST_IMAGE_PIXELS", 99)
    monkeypatch.setattr(recordings, "_first_times_ms", None)
    with pytest.raises(DatasetError, match="huge.avi: frames of .*; expected 1 to 99 pixels"):
        open_drive("video", str(path), "")
