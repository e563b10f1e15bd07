"""``merge``: the reports that ``fleet`` left, as one."""

import argparse
import sys
from functools import partial
from typing import Any

from segmentation_node.evaluation.commands.options import add_endpoint_option, writable
from segmentation_node.evaluation.commands.output import check_outputs, hand_out

JSON_MARK = '"frames_skipped"'


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "merge",
        help="sum the reports that fleet left",
        description="Sum the reports that fleet left. Exit code 1 if a drive failed.",
        examples="%(prog)s OUT --json fleet.json --html fleet.html",
    )
    parser.set_defaults(run=run)
    parser.add_argument("output", metavar="OUT", help="the folder or URL that fleet wrote to")
    parser.add_argument(
        "--against", metavar="OTHER", help="also compare with another fleet's reports"
    )
    parser.add_argument(
        "--json", type=writable, metavar="FILE", help="also write the figures to this file"
    )
    parser.add_argument(
        "--html", type=writable, metavar="FILE", help="also write a page with the figures"
    )
    add_endpoint_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Sum, print, and optionally write, the figures; 1 where a drive failed."""
    from segmentation_node.evaluation.fleet.merge import compare, merge
    from segmentation_node.evaluation.fleet.page import failure, fleet_page, fleet_text
    from segmentation_node.evaluation.fleet.storage import open_folder

    check_outputs(arguments.json, arguments.html, "a fleet's figures", JSON_MARK)
    folder = open_folder(arguments.output, arguments.endpoint_url)
    merged = merge(folder)
    if arguments.against:
        other = open_folder(arguments.against, arguments.endpoint_url)
        merged["against"] = compare(folder, merged, other)
    page = partial(fleet_page, merged)
    hand_out(fleet_text(merged), merged, arguments.json, arguments.html, page)
    incomplete = sum(bool(row["problems"]) for row in merged["drives"])
    if incomplete:
        told = "%d drives are damaged or incomplete; --json and --html say in what" % incomplete
        print("warning: " + told, file=sys.stderr)
    for note in merged["not_read"]:
        print("warning: " + note, file=sys.stderr)
    for item in merged["failed"]:
        print("failed: %s" % failure(item), file=sys.stderr)
    return 1 if merged["failed"] else 0
