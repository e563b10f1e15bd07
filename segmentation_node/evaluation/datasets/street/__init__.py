"""A procedural street drive: a synthetic driving clip with exact labels."""

from segmentation_node.evaluation.datasets.street.drive import StreetDrive

__all__ = ["StreetDrive"]
