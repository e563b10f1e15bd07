"""``python -m segmentation_node.evaluation COMMAND``: data sets and drives, scored."""

import argparse
import sys
from typing import List, Optional

from segmentation_node.errors import INTERRUPTED, exit_code
from segmentation_node.interrupts import ending_at_once


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    """The command line; see ``--help``."""
    with ending_at_once(INTERRUPTED):
        from segmentation_node.evaluation.commands import COMMANDS
    parser = argparse.ArgumentParser(prog="segmentation_node.evaluation")
    commands = parser.add_subparsers(dest="command")
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
