"""``python -m segmentation_node.evaluation COMMAND``: data sets and drives, scored."""

import argparse
import sys
from typing import List, Optional

from segmentation_node.errors import SegmentationError
from segmentation_node.interrupts import ending_at_once

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""


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
    """Run a command; a known error is one line and exit code 1."""
    parsed = parse(arguments)
    try:
        return int(parsed.run(parsed))
    except SegmentationError as error:
        print("error: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
