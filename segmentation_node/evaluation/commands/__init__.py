"""The commands of ``python -m segmentation_node.evaluation``: one file each, one entry each."""

from segmentation_node.evaluation.commands import bag, dataset, live, make_bag

# A command adds its parser with ``add_parser(commands)``; what it sets as ``run`` takes the
# parsed arguments and gives the exit code.
COMMANDS = {"dataset": dataset, "bag": bag, "live": live, "make-bag": make_bag}

__all__ = ["COMMANDS"]
