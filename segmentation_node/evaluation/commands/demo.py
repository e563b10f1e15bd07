"""``demo``, for ``make demo``: a clip is published as camera images, and a node segments it.

Leaves overlay.webm, overlay.png (a frame and its overlay), class_maps/, latency.json and
diagnostics.txt in the output folder.
"""

import argparse
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any, Dict, List, Sequence

from segmentation_node.errors import DatasetError, LabelsError
from segmentation_node.evaluation.clip import STREET_FRAMES, Clip, open_clip
from segmentation_node.evaluation.commands.live import import_live
from segmentation_node.evaluation.commands.options import add_backend_option, at_least
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.frame import Problem
from segmentation_node.evaluation.recorder import OverlayVideo, Recorder
from segmentation_node.evaluation.report.text import accuracy_table, latency_table, write_json
from segmentation_node.evaluation.run.accuracy import CommonLevel
from segmentation_node.files import Layout, new_folder, write_whole
from segmentation_node.labels import LabelSet

STREET_MODEL = "fast_elu_squeezenet_street"
CAMVID_MODEL = "fast_elu_squeezenet_camvid"
LAYOUT = Layout(
    "a demo's folder",
    ("overlay.webm", "overlay.png", "class_maps/*.png", "latency.json", "diagnostics.txt"),
    "latency.json",
    '"frames_segmented"',
)
LEFT_OUT, NOT_SCORED = "left out", "not scored"
REPORT_S = 1.1  # the node's diagnostics come once a second
LEVELS = {b"\x00": "OK", b"\x01": "WARN", b"\x02": "ERROR", b"\x03": "STALE"}


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "demo",
        help="play a clip into a node, and keep its overlays as a video (make demo)",
        description="""
Publish a clip as camera images, let the node segment them in its own process,
and leave overlay.webm, overlay.png, class_maps/, latency.json and
diagnostics.txt in a folder.""",
        examples="""
make demo
make demo INPUT=drive.mp4 MODEL=elu_squeezenet_camvid
""",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--input",
        default="",
        help="bag, folder of pictures, video or camera (0, /dev/video0); default: drawn street",
    )
    parser.add_argument(
        "--image-topic",
        default="",
        metavar="TOPIC",
        help="of a bag: the images; default: the bag's one camera",
    )
    parser.add_argument(
        "--model",
        default="",
        help="model folder, or shipped model's name; default: %s, of the drawn street %s"
        % (CAMVID_MODEL, STREET_MODEL),
    )
    add_backend_option(parser)
    parser.add_argument(
        "--frames",
        type=at_least(0),
        default=0,
        metavar="N",
        help="most frames; default: 0, all (of the drawn street %d, of a camera until Ctrl-C)"
        % STREET_FRAMES,
    )
    parser.add_argument(
        "--output", default=os.path.join("out", "demo"), metavar="FOLDER", help="folder to make"
    )


def run(arguments: argparse.Namespace) -> int:
    """Play the clip through the node; 1 when a frame was lost or a header changed."""
    evaluate = import_live()
    model = arguments.model or (CAMVID_MODEL if arguments.input else STREET_MODEL)
    target = evaluate.TargetOptions(model=model, backend=arguments.backend)
    with new_folder(arguments.output, LAYOUT, sources=[arguments.input, model]) as folder:
        clip = open_clip(arguments.input, arguments.frames, arguments.image_topic or None)
        clip = comparable(clip, target.card().labels)
        os.makedirs(os.path.join(folder, "class_maps"))
        with OverlayVideo(os.path.join(folder, "overlay.webm"), clip.fps) as video:
            recorder = Recorder(folder, clip.length, video)
            source = evaluate.SourceOptions(clip=clip)
            pace = evaluate.PaceOptions(hz=clip.fps, in_flight=1)
            options = evaluate.LiveOptions(target, source, pace, recorder=recorder)
            live = _play(evaluate.live_run(options), recorder, progress_bar(clip.length))
            skipped = _told_apart(live.run.skipped, recorder)
            _summarise(folder, live, recorder, skipped)
            _encode(video)
    for what, problems in skipped.items():
        for problem in problems:
            print("warning: %s: %s" % (what, problem), file=sys.stderr)
    if live.losses():
        print("warning: " + live.losses(), file=sys.stderr)
    lost = len(live.run.lost_frames)
    print(
        "%d frames segmented%s%s, %d lost, %d headers changed; see %s/overlay.webm"
        % (
            len(recorder.segmented),
            " (%d not scored)" % len(skipped[NOT_SCORED]) if skipped[NOT_SCORED] else "",
            ", %d left out" % len(skipped[LEFT_OUT]) if skipped[LEFT_OUT] else "",
            lost,
            recorder.header_mismatches,
            arguments.output,
        )
    )
    return 1 if lost or recorder.header_mismatches else 0


def comparable(clip: Clip, predicted: LabelSet) -> Clip:
    """The clip; without its truth where that has nothing in common with a network's classes."""
    if clip.truth is None:
        return clip
    try:
        CommonLevel(predicted, clip.truth)
        return clip
    except LabelsError:
        print(
            "note: accuracy is not measured: the network's classes (%s) are not the clip's (%s)"
            % (predicted.name, clip.truth.name),
            file=sys.stderr,
        )
    bare = (f if isinstance(f, Problem) else replace(f, truth_hw=None) for f in clip.frames)
    return replace(clip, truth=None, frames=bare)


def _play(playing: Any, recorder: Recorder, bar: Any) -> Any:
    """Play it all, or until Ctrl-C; gives the ``LiveRun``, which is over."""
    live = None
    try:
        with playing as live:
            live.score(bar(None, desc="segmenting"))
            if not recorder.segmented and not live.run.lost_frames:
                why = live.run.skipped[:1] or ["no frame came"]
                raise DatasetError("nothing to segment: %s" % why[0])
            live.collector.spin_for(REPORT_S)  # one more report, with every frame in it
    except KeyboardInterrupt:
        if not recorder.segmented:
            raise KeyboardInterrupt("before the first frame") from None
        print("interrupted: the results so far are kept", file=sys.stderr)
    return live


def _told_apart(problems: Sequence[Problem], recorder: Recorder) -> Dict[str, List[Problem]]:
    """Frames that could not be read, and those that were segmented, but not scored."""
    told: Dict[str, List[Problem]] = {LEFT_OUT: [], NOT_SCORED: []}
    segmented = set(recorder.segmented)
    for problem in problems:
        told[NOT_SCORED if problem.name in segmented else LEFT_OUT].append(problem)
    return told


def _encode(video: OverlayVideo) -> None:
    try:
        video.encode(partial(progress_bar(video.frames), desc="encoding"))
    except KeyboardInterrupt:
        print("interrupted: the video ends early, the rest is whole", file=sys.stderr)


def _summarise(
    folder: str, live: Any, recorder: Recorder, skipped: Dict[str, List[Problem]]
) -> None:
    """Write the figures, and print those a newcomer looks for."""
    figures = live.run.as_json()
    lost, segmented = len(figures["lost"]), len(recorder.segmented)
    content = {
        "frames_sent": segmented + lost,
        "frames_segmented": segmented,
        "frames_lost": lost,
        "frames_left_out": [vars(problem) for problem in skipped[LEFT_OUT]],
        "frames_not_scored": [vars(problem) for problem in skipped[NOT_SCORED]],
        "header_mismatches": recorder.header_mismatches,
        "stages_ms": figures["stages_ms"],
    }
    print(latency_table(content["stages_ms"]))
    if figures["frames_with_truth"]:
        content["accuracy"] = live.run.accuracy.as_json()
        print("\n" + accuracy_table(figures))
    print()
    write_json(os.path.join(folder, "latency.json"), content)
    diagnostics = _diagnostics_text(live.collector.status.diagnostics)
    write_whole(os.path.join(folder, "diagnostics.txt"), diagnostics)


def _diagnostics_text(statuses: List[Any]) -> str:
    if not statuses:
        return "no diagnostics arrived\n"
    last = statuses[-1]
    lines = ["%s %s: %s" % (LEVELS[last.level], last.name, last.message)]
    lines += ["  %s: %s" % (item.key, item.value) for item in last.values]
    return "\n".join(lines) + "\n"
