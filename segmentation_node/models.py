"""Until the last import of it is gone: ``models_folder`` is in ``model_card``."""

from segmentation_node.model_card import models_folder

__all__ = ["models_folder"]
