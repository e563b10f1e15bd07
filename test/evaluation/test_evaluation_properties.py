"""Properties of evaluation figures on arbitrary class maps and times."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from segmentation_node.evaluation.run.best_and_worst import Examples
from segmentation_node.evaluation.run.confusion import ConfusionMatrix
from segmentation_node.evaluation.run.consistency import TemporalConsistency
from segmentation_node.evaluation.run.timeline import pace
from segmentation_node.labels import CAMVID_11

CLASSES = 11
IDS = st.sampled_from([*range(CLASSES), 255])
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=12)


@st.composite
def clips(draw, least=0):
    """Class maps of one size: uint8 (frames, H, W)."""
    frames = draw(st.integers(least, 6))
    return draw(arrays(np.uint8, (frames, *draw(SHAPES)), elements=IDS))


@given(clips(), st.data())
def test_consistency_counts_what_differs_between_neighbours_that_are_there(clip, data):
    kept = [index for index in range(len(clip)) if data.draw(st.booleans())]
    counted = TemporalConsistency(CAMVID_11)
    for index in kept:
        counted.add(clip[index], ("", index))
    pairs = [(clip[i], clip[i + 1]) for i in kept if i + 1 in kept]
    result = counted.as_json()
    assert result["frame_pairs"] == len(pairs)
    assert result["changed_pixels"] == sum(int((a != b).sum()) for a, b in pairs)
    assert result["pixels"] == sum(a.size for a, _ in pairs)
    if pairs:
        assert result["changed_share"] + result["consistency"] == 1.0
    names = [*CAMVID_11.names, "unlabelled"]
    for name, share in result["class_changed_share"].items():
        index = 255 if name == "unlabelled" else names.index(name)
        was = sum(int((a == index).sum()) for a, _ in pairs)
        left = sum(int(((a == index) & (b != index)).sum()) for a, b in pairs)
        assert abs(share - left / was) < 1e-12


@given(clips(least=2))
def test_confusion_counts_every_labelled_pixel_once(clip):
    truth, predicted = clip[0], clip[1]
    matrix = ConfusionMatrix(CLASSES)
    matrix.add(truth, predicted)
    assert matrix.counts.sum() == (truth != 255).sum()
    right = (truth == predicted) & (truth != 255)
    assert np.trace(matrix.counts) == right.sum()
    if (truth != 255).any():
        assert matrix.frequency_weighted_iou() <= matrix.global_accuracy() + 1e-12
        assert 0.0 <= matrix.mean_iou() <= 1.0


@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=50), st.floats(0.0, 1e6))
def test_pace_does_not_depend_on_when_the_run_began(intervals_s, start_s):
    done_s = np.cumsum([0.0, *intervals_s])
    here, later = pace(done_s), pace(done_s + start_s)
    assert np.isclose(here["rate_hz"], later["rate_hz"], rtol=1e-3)
    assert np.isclose(here["rate_hz"], len(intervals_s) / sum(intervals_s))
    assert np.isclose(here["jitter_ms"]["std"], np.std(intervals_s) * 1e3, atol=1e-6)


@given(st.lists(st.floats(0.0, 1.0), max_size=40), st.integers(1, 5))
def test_examples_are_the_ends_of_the_sorted_scores(scores, count):
    examples = Examples(count)
    for index, score in enumerate(scores):
        examples.offer(str(index), score, None, np.zeros((1, 1), np.uint8))
    worst = [example.score for example in examples.lowest()]
    best = [example.score for example in examples.highest()]
    ordered = sorted(scores)
    half = min(len(scores), 2 * count)
    assert worst == ordered[: half // 2]
    assert best == ordered[::-1][: half - half // 2]
    names = [example.name for example in examples.lowest() + examples.highest()]
    assert len(names) == len(set(names))
