"""What only ONNX Runtime can meet: graphs that do not do what their card says."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from tiny import assert_one_line

from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.errors import BackendError


def open_onnx(card):
    return open_backend("onnxruntime", card, BackendOptions(num_threads=1))


@pytest.fixture
def onnxruntime():
    missing = BACKENDS["onnxruntime"].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)


@pytest.mark.usefixtures("onnxruntime")
class TestOnnxGraph:
    """A graph that does not do what its card says is refused."""

    def test_an_input_that_does_not_fit_the_card(self):
        card = tiny.card()
        card = replace(card, input=replace(card.input, height=12))
        with pytest.raises(BackendError) as caught:
            open_onnx(card)
        assert_one_line(caught, "model.onnx", "[1, 6, 8, 3]", "card expects", "[1, 12, 8, 3]")

    def test_outputs_that_do_not_fit_the_card(self):
        with pytest.raises(BackendError) as caught:
            open_onnx(replace(tiny.card(), outputs=["class_map"]))
        assert_one_line(caught, "model.onnx", "['class_map', 'confidence']", "card says")

    def test_a_label_set_that_does_not_fit_the_card(self):
        with pytest.raises(BackendError) as caught:
            open_onnx(replace(tiny.card(), label_set="cityscapes19"))
        assert_one_line(caught, "model.onnx", "camvid11", "card says cityscapes19")

    def test_a_batch_that_the_file_is_not_made_for(self):
        with pytest.raises(BackendError) as caught:
            open_backend("onnxruntime", tiny.card(), BackendOptions(batch=4))
        assert_one_line(caught, "onnx artifact of tiny", "batch of 1, not 4", "--batch 4")

    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_a_gpu(self, device):
        with pytest.raises(BackendError) as caught:
            open_backend("onnxruntime", tiny.card(), BackendOptions(device=device))
        assert_one_line(caught, repr(device), "cpu or auto")

    def test_a_class_outside_the_label_set(self, tmp_path):
        """This graph gives every class plus one: the last of CamVid's eleven becomes 11."""
        with open_onnx(tiny.card_with(copied("class_11.onnx", tmp_path))) as backend:
            backend.run(tiny.paint(np.full((1, 6, 8), 9)))
            with pytest.raises(BackendError) as caught:
                backend.run(tiny.paint(np.full((1, 6, 8), 10)))
        assert_one_line(caught, "class 11", "camvid11", "11 classes")

    def test_a_confidence_of_another_type(self, tmp_path):
        with open_onnx(tiny.card_with(copied("float_confidence.onnx", tmp_path))) as backend:
            with pytest.raises(BackendError) as caught:
                backend.run(tiny.random_image(0)[None], with_confidence=True)
        assert_one_line(caught, "float32 (1, 6, 8)", "expected", "confidence")


def copied(file_name, folder):
    path = folder / file_name
    with open("%s/%s" % (tiny.DATA, file_name), "rb") as content:
        path.write_bytes(content.read())
    return path
