"""The commands of ``python -m segmentation_node.evaluation``: one file each, one entry each."""

from segmentation_node.evaluation.commands import (
    bag,
    check_data,
    confidence,
    dataset,
    demo,
    fleet,
    live,
    make_bag,
    make_folder,
    merge,
    nav2_config,
)

# A command adds its parser with ``add_parser(commands)``; what it sets as ``run`` takes the
# parsed arguments and gives the exit code.
COMMANDS = {
    "dataset": dataset,
    "bag": bag,
    "live": live,
    "demo": demo,
    "make-bag": make_bag,
    "check-data": check_data,
    "make-folder": make_folder,
    "confidence": confidence,
    "nav2-config": nav2_config,
    "fleet": fleet,
    "merge": merge,
}

__all__ = ["COMMANDS"]
