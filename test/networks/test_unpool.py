"""Both forms of pooling and unpooling give torch's bits, ties and zeros of either sign included."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from segmentation_node.networks.unpool import (
    max_pool,
    max_pool_by_comparison,
    max_pool_by_index,
)

# Few values, so that most windows have ties; inf and the smallest half are edges of the dtypes.
VALUES = (0.0, -0.0, 1.0, -1.0, 0.5, 6e-8, 65504.0, float("inf"), float("-inf"))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@st.composite
def feature_maps(draw):
    batch, channels, height, width = (draw(st.integers(1, most)) for most in (2, 3, 7, 7))
    count = batch * channels * height * width
    values = draw(st.lists(st.sampled_from(VALUES), min_size=count, max_size=count))
    return torch.tensor(values).reshape(batch, channels, height, width)


def bits(values):
    same_width = torch.int32 if values.dtype == torch.float32 else torch.int16
    return values.contiguous().view(same_width)


def reference(features, stream):
    """torch's own pooling, and its unpooling of ``stream``."""
    pooled, indices = functional.max_pool2d(
        features, 2, stride=2, ceil_mode=True, return_indices=True
    )
    return pooled, functional.max_unpool2d(
        stream(pooled), indices, 2, stride=2, output_size=features.shape[2:]
    )


@settings(max_examples=200, deadline=None)
@given(feature_maps(), st.sampled_from(DTYPES), st.booleans())
def test_forms_equal_torch_bit_for_bit(features, dtype, channels_last):
    features = features.to(dtype)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    for form in (max_pool_by_index, max_pool_by_comparison):
        for stream in (lambda pooled: pooled, lambda pooled: torch.full_like(pooled, -3.0)):
            expected_pooled, expected = reference(features, stream)
            pooled, unpool = form(features)
            assert torch.equal(bits(pooled), bits(expected_pooled))
            assert torch.equal(bits(unpool(stream(pooled))), bits(expected))


def test_every_window_of_four_values():
    values = torch.tensor(list(itertools.product((0.0, -0.0, 1.0, 2.0), repeat=4)))
    windows = values.reshape(-1, 1, 2, 2)
    expected_pooled, expected = reference(windows, torch.ones_like)
    pooled, unpool = max_pool_by_comparison(windows)
    assert torch.equal(bits(pooled), bits(expected_pooled))
    assert torch.equal(unpool(torch.ones_like(pooled)), expected)


@pytest.mark.parametrize("size", [(45, 60), (23, 30), (1, 1), (1, 4)])
def test_odd_sizes_pool_in_ceil_mode_and_are_restored(size):
    for form in (max_pool_by_index, max_pool_by_comparison):
        pooled, unpool = form(torch.randn(1, 2, *size))
        assert pooled.shape[2:] == (-(-size[0] // 2), -(-size[1] // 2))
        assert unpool(pooled).shape[2:] == size


def test_gradients_agree():
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    gradients = []
    for form in (max_pool_by_index, max_pool_by_comparison):
        leaf = features.clone().requires_grad_()
        pooled, unpool = form(leaf)
        (unpool(pooled * 2) ** 2).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_without_export_pooling_is_by_index():
    assert "indices" in max_pool(torch.zeros(1, 1, 2, 2))[1].keywords
