"""``make demo``: a clip is published as camera images, the node segments it in its own process.

Leaves overlay.webm, overlay.png (a frame and its overlay), class_maps/, latency.json and
diagnostics.txt in the output folder.
"""

import argparse
import os
import sys
from functools import partial
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from segmentation_node.errors import DatasetError, LabelsError, exit_code
from segmentation_node.evaluation.clip import Clip, open_clip
from segmentation_node.evaluation.commands.options import at_least
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.frame import Frame, Problem
from segmentation_node.evaluation.live.replay import Replay
from segmentation_node.evaluation.live.target import NodeProcess, joined_graph, prepare_middleware
from segmentation_node.evaluation.recorder import OverlayVideo, Recorder
from segmentation_node.evaluation.report.text import accuracy_table, latency_table, write_json
from segmentation_node.evaluation.run.accuracy import Accuracy
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


class Played(NamedTuple):
    """What came of playing a clip, beside what the recorder kept."""

    interrupted: bool
    sent: int
    statuses: List[Any]


def run(arguments: argparse.Namespace) -> int:
    """Play the clip through the node; 1 when a frame was lost or a header changed."""
    model = arguments.model or (CAMVID_MODEL if arguments.input else STREET_MODEL)
    parameters = {"model": model, "backend": arguments.backend, "frame_policy": "every"}
    with new_folder(arguments.output, LAYOUT, sources=[arguments.input, model]) as folder:
        clip = open_clip(arguments.input, arguments.frames, arguments.image_topic or None)
        os.makedirs(os.path.join(folder, "class_maps"))
        with OverlayVideo(os.path.join(folder, "overlay.webm"), clip.fps) as video:
            recorder = Recorder(folder, clip.length, video)
            with joined_graph():
                played = _play(clip, recorder, parameters)
            if not played.sent and played.interrupted:
                raise KeyboardInterrupt("before the first frame")
            if not played.sent:
                why = [str(problem) for problem in recorder.left_out[:1]] + list(clip.notes())
                raise DatasetError("nothing to segment: %s" % "; ".join(why or ["no frame came"]))
            lost = 0 if played.interrupted else played.sent - recorder.frames
            _summarise(folder, recorder, lost, played.statuses)
            _encode(video)
    for problem in recorder.left_out:
        print("warning: left out: %s" % problem, file=sys.stderr)
    for note in clip.notes():
        print("note: " + note, file=sys.stderr)
    print(
        "%d frames segmented%s, %d lost, %d headers changed; see %s/overlay.webm"
        % (
            recorder.frames,
            " (%d left out)" % len(recorder.left_out) if recorder.left_out else "",
            lost,
            recorder.header_mismatches,
            arguments.output,
        )
    )
    return 1 if lost or recorder.header_mismatches else 0


def _comparable(predicted: LabelSet, truth: LabelSet) -> Optional[Accuracy]:
    try:
        return Accuracy(predicted, truth)
    except LabelsError as error:
        print("note: accuracy is not measured: %s" % error, file=sys.stderr)
        return None


def _play(clip: Clip, recorder: Recorder, parameters: Dict[str, Any]) -> Played:
    interrupted = False
    with Replay() as replay:
        replay.pairing.on_result = recorder.take
        replay.pairing.on_lost = lambda result, reason: None  # they are counted, not kept
        with NodeProcess(parameters) as process:
            try:
                replay.wait_until_ready(process)
                if clip.truth is not None:
                    recorder.accuracy = _comparable(replay.status.labels(), clip.truth)
                bar = progress_bar(clip.length)
                frames = bar(_one_by_one(clip, recorder, replay, process), desc="segmenting")
                replay.play(frames, process, rate_hz=clip.fps, in_flight=1)
                replay.spin_for(1.1)  # one more report, with every frame in it
            except KeyboardInterrupt:
                interrupted = True
                if replay.sent:
                    print("interrupted: the results so far are kept", file=sys.stderr)
        return Played(interrupted, replay.sent, replay.status.diagnostics)


def _one_by_one(clip: Clip, recorder: Recorder, replay: Replay, process: Any) -> Iterator[Frame]:
    """The clip's frames, each read when the node has done with the one before; no broken ones.

    Reading and keeping take the cores that the network needs, and the times are to be the node's.
    """
    frames = iter(clip.frames)
    while True:
        replay.wait_for_room(1, process)
        frame = next(frames, None)
        if frame is None:
            return
        if isinstance(frame, Problem):
            recorder.left_out.append(frame)
        else:
            yield frame


def _encode(video: OverlayVideo) -> None:
    try:
        video.encode(partial(progress_bar(video.frames), desc="encoding"))
    except KeyboardInterrupt:
        print("interrupted: the video ends early, the rest is whole", file=sys.stderr)


def _summarise(folder: str, recorder: Recorder, lost: int, statuses: List[Any]) -> None:
    content: Dict[str, Any] = {
        "frames_sent": recorder.frames + lost,
        "frames_segmented": recorder.frames,
        "frames_lost": lost,
        "frames_left_out": [vars(problem) for problem in recorder.left_out],
        "header_mismatches": recorder.header_mismatches,
        "stages_ms": recorder.stages_ms(),
    }
    write_whole(os.path.join(folder, "diagnostics.txt"), _diagnostics_text(statuses))
    print(latency_table(content["stages_ms"]))
    if recorder.accuracy is not None:
        content["accuracy"] = recorder.accuracy.as_json()
        print()
        print(accuracy_table(content["accuracy"]))
    write_json(os.path.join(folder, "latency.json"), content)
    print()


def _diagnostics_text(statuses: List[Any]) -> str:
    if not statuses:
        return "no diagnostics arrived\n"
    last = statuses[-1]
    levels = {b"\x00": "OK", b"\x01": "WARN", b"\x02": "ERROR", b"\x03": "STALE"}
    lines = ["%s %s: %s" % (levels[last.level], last.name, last.message)]
    lines += ["  %s: %s" % (item.key, item.value) for item in last.values]
    return "\n".join(lines) + "\n"


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the demo; a known error is one line and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="segmentation_node.evaluation.commands.demo", description=__doc__
    )
    parser.add_argument(
        "--input", default="", help="bag, image folder, video file, or camera (0, ...)"
    )
    parser.add_argument("--image-topic", default="", help="one of the bag's cameras")
    parser.add_argument("--model", default="", help="model folder or name")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--frames", type=at_least(0), default=0, help="play at most this many")
    parser.add_argument("--output", default=os.path.join("out", "demo"))
    parsed = parser.parse_args(arguments)
    prepare_middleware()
    return exit_code(lambda: run(parsed))


if __name__ == "__main__":
    sys.exit(main())
