"""``check-data``: read a data set once, and say what is in it and what is wrong with it."""

import argparse
import sys
from contextlib import closing
from typing import Any, List, Sequence

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.check import DataCheck, SplitContent
from segmentation_node.evaluation.commands.options import add_data_options, writable
from segmentation_node.evaluation.commands.output import hand_out, progress_bar
from segmentation_node.evaluation.datasets import DATASETS, open_dataset
from segmentation_node.evaluation.report.text import NAMED_PROBLEMS, percent, table
from segmentation_node.evaluation.run.accuracy import defined
from segmentation_node.evaluation.sources import DatasetSource
from segmentation_node.files import check_file
from segmentation_node.labels import describe

USUAL_SPLITS = ("train", "val", "test")
SIZES = 3
"""Named by split; the JSON names all."""
JSON_MARK = '"shared_pictures"'


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "check-data",
        help="read a data set once and say what is wrong with it",
        description="""
Read every file of a data set once, and say what is in it and what is wrong
with it. Exit code 1 if something is wrong.""",
        examples="%(prog)s --dataset folder --root yard",
    )
    parser.set_defaults(run=run)
    add_data_options(parser)
    parser.add_argument(
        "--split",
        nargs="+",
        default=[],
        metavar="SPLIT",
        help="default: train, val and test; of folder and voc all that there are",
    )
    parser.add_argument(
        "--json", type=writable, metavar="FILE", help="also write what was found to this file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Read, print, and optionally write, what was found; 1 where something is wrong."""
    if arguments.json:
        check_file(arguments.json, "a check's figures", JSON_MARK)
    check = DataCheck(arguments.dataset, arguments.root)
    # A split that is named twice is still read once: its pictures are no copies of each other.
    for split in dict.fromkeys(arguments.split) or splits_of(arguments.dataset, arguments.root):
        _read(check, split)
    hand_out(_text(check), check.as_json(), arguments.json)
    _tell("warning", check.warnings())
    _tell("error", check.problems())
    return 1 if check.problems() else 0


def splits_of(name: str, root: str) -> Sequence[str]:
    """Splits that make the whole data set, each picture in one of them."""
    splits = DATASETS[name].splits_in(root)
    # What is written in code has further names for parts of these.
    usual = tuple(split for split in USUAL_SPLITS if split in splits)
    return usual if DATASETS[name].splits else splits


def _read(check: DataCheck, split: str) -> None:
    try:
        dataset = open_dataset(check.name, check.root, split)
    except DatasetError as error:
        check.unopened[split] = str(error)
        return
    source = DatasetSource(dataset, check.name)
    with closing(source.frames()) as frames:
        check.read(dataset, progress_bar(source.length)(frames))


def _text(check: DataCheck) -> str:
    header = ["split", "pictures", "broken", "labelled %", "sizes"]
    tables = [table(header, [_split_row(content) for content in check.splits])]
    if check.splits:
        tables.append(_class_table(check))
    return "\n\n".join(tables)


def _split_row(content: SplitContent) -> List[str]:
    sizes = ["%s (%d)" % size for size in content.sizes.most_common(SIZES)]
    if len(content.sizes) > SIZES:
        sizes.append("%d more" % (len(content.sizes) - SIZES))
    labelled = percent(content.labelled_share())
    counts = [str(content.frames), str(len(content.broken)), labelled]
    return [content.split] + counts + [", ".join(sizes)]


def _class_table(check: DataCheck) -> str:
    """By class: its id in label images and, of each split, its share and its pictures."""
    header = ["class", "id"]
    for content in check.splits:
        header += [content.split + " %", "in pictures"]
    rows = []
    for index, item in enumerate(describe(check.splits[0].labels)["classes"]):
        row = [item["name"], str(item["id"])]
        for content in check.splits:
            share = defined(content.shares()[index])
            row += [percent(share), str(content.pictures[index])]
        rows.append(row)
    return table(header, rows)


def _tell(kind: str, lines: Sequence[str]) -> None:
    for line in lines[:NAMED_PROBLEMS]:
        print("%s: %s" % (kind, line), file=sys.stderr)
    if len(lines) > NAMED_PROBLEMS:
        print("%s: %d more" % (kind, len(lines) - NAMED_PROBLEMS), file=sys.stderr)
