"""Where the classes lie in an output, and what its values are."""

import numpy as np
import pytest
from support.foreign_networks import sigmoid, softmax

from segmentation_node.importing.head import arrange, kind_of


@pytest.mark.parametrize("size", [(256, 256), (512, 1024), (1024, 1024)])
@pytest.mark.parametrize("classes", [None, 2, 19])
def test_a_map_of_the_inputs_size_is_one_channel(size, classes):
    """Its side is the number of pixels of a grid of the input, too."""
    found = arrange((1, *size), size, classes, prefers_last=True)
    assert (found.channels, found.grid) == (1, size)


def test_a_softmax_in_8_bits_adds_up_to_about_1():
    scores = np.random.default_rng(0).normal(0, 3, (21, 64, 64))
    shares = (np.clip(np.rint(softmax(scores) * 256), 0, 255) / 256).astype(np.float32)
    assert np.abs(shares.sum(axis=0) - 1).max() > 0.01
    assert kind_of([shares])[0] == "softmax"
    assert kind_of([sigmoid(scores).astype(np.float32)])[0] == "sigmoids"


def test_sigmoids_of_many_classes_that_add_up_to_nearly_1_are_no_softmax():
    """Of 150 classes 8 bits would be off by up to 0.3, so that they have to be 8 bits."""
    shares = softmax(np.random.default_rng(0).normal(0, 3, (150, 16, 16)))
    assert kind_of([(shares * 1.1).clip(0, 1).astype(np.float32)])[0] == "sigmoids"
