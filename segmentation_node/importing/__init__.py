"""Networks of others: a foreign file becomes a model folder that the node runs.

``python -m segmentation_node.importing NET --output FOLDER``. The graph is rewritten into the
node's own contract, held against the original on pictures, and described by a card.
"""
