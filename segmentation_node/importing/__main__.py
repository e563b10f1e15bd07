"""``python -m segmentation_node.importing NET --output FOLDER``: networks of others."""

import argparse
import math
import shlex
import sys
from pathlib import Path

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import INTERRUPTED, NetworkImportError, exit_code
from segmentation_node.importing.families import FAMILIES
from segmentation_node.importing.settings import Settings, image_size
from segmentation_node.interrupts import ending_at_once
from segmentation_node.labels import LABEL_SETS, MOST_CLASSES, label_set_by_name

WIDTH = 14
"""Of the column in which it says what a finding is of."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = CommandParser(
        prog="python3 -m segmentation_node.importing",
        description="""
Turn an ONNX file that was made elsewhere into a model folder. What an option does not say is found
in the file, beside it, or by running it; what cannot be found is asked for.""",
        examples="""
%(prog)s net.onnx --output models/net --labels labels.yaml --images pictures --dry-run
%(prog)s road.onnx --output models/road --from open_model_zoo --labels road.yaml
""",
    )
    made.add_argument("network", type=Path, metavar="NET", help="the ONNX file")
    made.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="the model folder to make"
    )
    made.add_argument(
        "--from",
        dest="family",
        default="",
        metavar="FAMILY",
        help="where the network comes from, which says how it sees pictures: %s; default: what the "
        "file, or files beside it, tell" % ", ".join(sorted(FAMILIES)),
    )
    made.add_argument(
        "--labels",
        help="its classes: %s, or a labels.yaml; default: what the file, or files beside it, tell"
        % ", ".join(LABEL_SETS),
    )
    made.add_argument(
        "--size",
        type=image_size,
        action="append",
        default=[],
        metavar="HxW",
        help="height x width in pixels of the network's input; default: what the file fixes; given "
        "again, the graph is there in that size too",
    )
    made.add_argument(
        "--scale",
        type=_number,
        metavar="S",
        help="the network sees (pixel * scale - mean) / std, of pixels from 0 to 255; 0.00392157 "
        "after PyTorch's ToTensor; default: the family's. Without a family give one of the three; "
        "the others are then 1, 0 and 1",
    )
    for name in ("--mean", "--std"):
        made.add_argument(
            name,
            nargs=3,
            type=_number,
            metavar=("R", "G", "B"),
            help="see --scale; always in the order R G B; default: the family's",
        )
    made.add_argument(
        "--order",
        choices=("rgb", "bgr"),
        help="in which the network takes the channels; default: the family's, or rgb",
    )
    made.add_argument(
        "--layout",
        choices=("nchw", "nhwc"),
        help="channels first or last; default: what the input's shape shows",
    )
    made.add_argument("--output-head", metavar="NAME", help="which output, where there are several")
    made.add_argument(
        "--threshold",
        type=_number,
        metavar="T",
        help="above which a sigmoid, probability or score counts; default: 0.5, of scores 0",
    )
    made.add_argument(
        "--id-offset",
        type=_offset,
        metavar="N",
        help="added to the ids that the network gives, -1 where its 0 is no class; default: the "
        "family's, or 0",
    )
    made.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="10 real pictures or more, on which result and original are compared and int8 is "
        "calibrated; default: the drawn street, and no model_int8.onnx",
    )
    made.add_argument("--dry-run", action="store_true", help="say everything, write nothing")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Import a network; a known error is one line and exit code 1."""
    given = sys.argv[1:] if arguments is None else arguments
    parsed = parser().parse_args(given)
    return exit_code(lambda: _run(parsed, given))


def _run(parsed: argparse.Namespace, given: list[str]) -> int:
    with ending_at_once(INTERRUPTED):
        try:
            from segmentation_node.importing.importer import Request, import_network
        except ImportError as error:
            raise NetworkImportError(
                f"a package is missing ({error}); install what importing needs with: pip install "
                "onnx onnxruntime"
            ) from error
    settings = Settings(
        mean=parsed.mean and tuple(parsed.mean),
        std=parsed.std and tuple(parsed.std),
        scale=parsed.scale,
        order=parsed.order,
        layout=parsed.layout,
        size=parsed.size[0] if parsed.size else None,
        head=parsed.output_head,
        threshold=parsed.threshold,
        id_offset=parsed.id_offset,
        labels=label_set_by_name(parsed.labels) if parsed.labels else None,
    )
    request = Request(
        network=parsed.network,
        output=parsed.output,
        family=parsed.family,
        given=settings,
        other_sizes=[size for size in parsed.size if size != parsed.size[0]],
        images=parsed.images,
        dry_run=parsed.dry_run,
        command=shlex.join(["python3", "-m", "segmentation_node.importing", *given]),
    )
    import_network(request, lambda what, text: print(f"{what:{WIDTH}}{text}", flush=True))
    return 0


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no finite number")
    return number


def _offset(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = MOST_CLASSES + 1
    if abs(number) > MOST_CLASSES:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no whole number from {-MOST_CLASSES} to {MOST_CLASSES}"
        )
    return number


if __name__ == "__main__":
    sys.exit(main())
