"""Errors of training whose message is one line for the user."""

from segmentation_node.errors import SegmentationError


class TrainingError(SegmentationError):
    """A run that cannot be started or continued as asked."""


class RecipeError(TrainingError, ValueError):
    """A recipe that says something impossible."""


class DivergedError(TrainingError, FloatingPointError):
    """A loss that is no number any more, or that grows instead of falling."""
