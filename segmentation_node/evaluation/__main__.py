"""``python -m segmentation_node.evaluation COMMAND``: data sets and drives, scored."""

import argparse
import sys
from typing import List, Optional

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import INTERRUPTED, exit_code
from segmentation_node.interrupts import ending_at_once


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    """The command line; see ``--help``."""
    with ending_at_once(INTERRUPTED):
        from segmentation_node.evaluation.commands import COMMANDS
    parser = CommandParser(
        prog="python3 -m segmentation_node.evaluation",
        description="Score data sets and recorded drives: on the terminal, as JSON, as a page.",
        examples="""
%(prog)s dataset --help
ros2 run segmentation_node evaluation dataset --help
""",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    for command in COMMANDS.values():
        command.add_parser(commands)
    return parser.parse_args(arguments)


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a command; gives the exit code: 2 after a wrong command line, which argparse tells."""

    def run() -> int:
        parsed = parse(arguments)
        return int(parsed.run(parsed))

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
