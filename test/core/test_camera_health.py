"""What is wrong with a camera is told once it has lasted, and until it has been gone as long."""

import numpy as np
import pytest

from segmentation_node.camera_health import CameraHealth

SIZE = (120, 160)
PERIOD_S = 0.1


@pytest.fixture
def random():
    return np.random.default_rng(7)


class Camera:
    """Gives a health its images every ``PERIOD_S`` and keeps the time."""

    def __init__(self):
        self.health = CameraHealth()
        self.now_s = 100.0

    def send(self, make, duration_s):
        """How long after the first of these images the problem changed; None where it did not."""
        begun_s, before = self.now_s, bool(self.health.problem)
        changed_s = None
        while self.now_s < begun_s + duration_s:
            self.health.look(make(), self.now_s)
            if changed_s is None and bool(self.health.problem) != before:
                changed_s = self.now_s - begun_s
            self.now_s += PERIOD_S
        return changed_s


def grey(levels_hw):
    return np.repeat(np.asarray(levels_hw, np.uint8)[..., None], 3, axis=2)


def noise(random, low, high, size=SIZE):
    """Levels from low to high, both included."""
    return random.integers(low, high + 1, (*size, 3), np.uint8)


def with_others(image_hwc, random, share):
    """The image with that share of its pixels anywhere in the range."""
    others = random.random(image_hwc.shape[:2]) < share
    image_hwc[others] = noise(random, 0, 255)[others]
    return image_hwc


def fourteen_bits(random):
    """A thermal core's 14 bits in mono16, converted as cv_bridge does."""
    return grey(np.rint(random.integers(7000, 8021, SIZE) * (255 / 65535)))


PROBLEMS = [
    (fourteen_bits, "within 2 % of the encoding's range, at 11 % of it; have the driver scale"),
    (lambda random: noise(random, 100, 105), "camera: 100 % of the pixels lie within 2 %"),
    (lambda random: noise(random, 0, 2), "camera: black, 100 % of the pixels"),
    (lambda random: with_others(noise(random, 0, 2), random, 0.01), "camera: black, 9"),
    (lambda random: noise(random, 253, 255), "camera: saturated, 100 % of the pixels"),
]
SOUND = [
    lambda random: noise(random, 0, 255),
    lambda random: noise(random, 100, 106),
    lambda random: with_others(noise(random, 100, 105), random, 0.03),
    lambda random: with_others(noise(random, 0, 2), random, 0.05),
    lambda random: with_others(noise(random, 253, 255), random, 0.05),
    lambda random: noise(random, 0, 7),
    # One channel has it all: colours, not a sliver.
    lambda random: noise(random, 0, 255) * np.array([0, 1, 0], np.uint8) + np.uint8(100),
]


@pytest.mark.parametrize(("make", "words"), PROBLEMS)
def test_a_problem_is_told_after_two_seconds_and_until_two_seconds_later(random, make, words):
    camera = Camera()
    assert camera.send(lambda: noise(random, 0, 255), 1.0) is None
    assert camera.send(lambda: make(random), 4.0) == pytest.approx(2.0, abs=2 * PERIOD_S)
    assert words in camera.health.problem and "\n" not in camera.health.problem
    assert camera.send(lambda: noise(random, 0, 255), 4.0) == pytest.approx(2.0, abs=2 * PERIOD_S)
    assert camera.health.problem == ""


@pytest.mark.parametrize("make", SOUND)
def test_a_sound_camera_has_no_problem(random, make):
    assert Camera().send(lambda: make(random), 4.0) is None


def test_flashes_change_nothing(random):
    camera = Camera()
    for _ in range(5):
        assert camera.send(lambda: noise(random, 255, 255), 1.5) is None
        assert camera.send(lambda: noise(random, 0, 255), 0.2) is None
    camera.send(lambda: noise(random, 255, 255), 3.0)
    for _ in range(5):
        assert camera.send(lambda: noise(random, 0, 255), 1.5) is None
        assert camera.send(lambda: noise(random, 255, 255), 0.2) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (48, 64), (65, 129), (720, 1280)])
def test_any_size(random, size):
    camera = Camera()
    camera.send(lambda: np.zeros((*size, 3), np.uint8), 3.0)
    assert "black" in camera.health.problem
    camera.send(lambda: noise(random, 0, 255, SIZE), 3.0)
    assert camera.health.problem == ""


def test_identical_images_are_told_after_three_seconds(random):
    camera, image = Camera(), noise(random, 0, 255)
    assert camera.send(image.copy, 10.0) == pytest.approx(3.0, abs=2 * PERIOD_S)
    assert "camera: frozen, the images have been identical for 10.0 s" in camera.health.problem
    assert camera.send(lambda: noise(random, 0, 255), 4.0) == pytest.approx(2.0, abs=2 * PERIOD_S)


def test_identical_images_of_a_slow_camera_are_told_at_the_fifth(random):
    health, image = CameraHealth(), noise(random, 0, 255)
    told = []
    for now_s in range(0, 10, 2):
        health.look(image.copy(), float(now_s))
        told.append("frozen" in health.problem)
    assert told == [False, False, False, False, True]


def test_one_pixel_beside_the_grid_that_changes_is_no_frozen_camera(random):
    camera, image = Camera(), noise(random, 0, 255)

    def with_a_counter():
        image[0, 0, 0] += 1
        return image.copy()

    assert camera.send(with_a_counter, 10.0) is None
    assert "frozen" not in camera.health.problem
    assert camera.send(image.copy, 10.0) is not None
    assert "frozen" in camera.health.problem


def test_images_that_come_faster_are_looked_at_ten_times_a_second(random, monkeypatch):
    looks = []
    monkeypatch.setattr(
        "segmentation_node.camera_health._sample", lambda image: looks.append(1) or image
    )
    health, image = CameraHealth(), noise(random, 0, 255, (48, 64))
    for number in range(600):
        health.look(image, number / 200)
    assert 29 <= len(looks) <= 32
