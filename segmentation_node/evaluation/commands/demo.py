"""``make demo``: a clip is published as camera images, the node segments it in its own process.

Leaves overlay.webm, overlay.png (a frame and its overlay), class_maps/, latency.json and
diagnostics.txt in the output folder.
"""

import argparse
import os
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

import cv2
import numpy as np

from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation import report
from segmentation_node.evaluation.clip import Clip, open_clip
from segmentation_node.evaluation.live.target import NodeProcess, prepare_middleware, uninterrupted
from segmentation_node.evaluation.run.accuracy import Accuracy
from segmentation_node.files import Layout, new_folder
from segmentation_node.labels import LABEL_SETS
from segmentation_node.timing import STAGES, RollingPercentiles

STREET_MODEL = "elu_squeezenet_street"
CAMVID_MODEL = "fast_elu_squeezenet_camvid"
LAYOUT = Layout(
    "a demo's folder",
    ("overlay.webm", "overlay.png", "class_maps/*.png", "latency.json", "diagnostics.txt"),
    "latency.json",
    '"frames_segmented"',
)
# One in work, one waiting: more would only lengthen the queue that the latency table shows.
IN_FLIGHT = 2


class Recorder:
    """Keeps what came back: video, class maps, latencies, and the score where there is truth."""

    def __init__(self, folder: str, clip: Clip) -> None:
        self.folder = folder
        self.frames = 0
        self.header_mismatches = 0
        self.accuracy: Optional[Accuracy] = None
        self.latencies: Dict[str, RollingPercentiles] = {}
        self._clip = clip
        self._progress: Any = None
        self._video: Any = None
        self._video_size = (0, 0)

    def images(self) -> Iterator[Any]:
        """The clip's images; names and truth come back with the results."""
        from segmentation_node.evaluation.live.replay import PlayedImage

        self._progress = _progress_bar(self._clip.length)
        for name, image, labels in self._clip.frames:
            yield PlayedImage(image, (name, labels))

    def take(self, result: Any) -> None:
        """One result, whole or not at all; a frame that failed leaves a gap, not a shift."""
        with uninterrupted():
            self._keep(result)

    def _keep(self, result: Any) -> None:
        name, labels = result.payload
        self.frames += 1
        self.header_mismatches += not result.headers_match
        class_map_path = os.path.join(self.folder, "class_maps", os.path.splitext(name)[0] + ".png")
        cv2.imwrite(class_map_path, result.class_map_hw)
        self._write_video(result.overlay_hwc)
        if self.frames in (1, (self._clip.length or 0) // 2):
            self._write_picture(result)
        for stage in STAGES + ("processing", "transport", "end_to_end"):
            # NaN is left out: a first frame may come without its latency.
            value_ms = getattr(result.latency, stage + "_ms", float("nan"))
            self.latencies.setdefault(stage, RollingPercentiles(window=100000)).add(value_ms)
        if labels is not None and self.accuracy is not None:
            self.accuracy.add(labels, result.class_map_hw)
        self._progress.update()

    def stages_ms(self) -> Dict[str, Dict[str, float]]:
        """Percentiles by stage in ms."""
        return {
            stage: {"p%d" % rank: value for rank, value in values.percentiles().items()}
            for stage, values in self.latencies.items()
        }

    def close(self) -> None:
        """Finish the video and the progress bar."""
        if self._progress is not None:
            self._progress.close()
        if self._video is not None:
            self._video.release()

    def _write_picture(self, result: Any) -> None:
        pair = np.vstack([result.image_hwc, result.overlay_hwc])
        path = os.path.join(self.folder, "overlay.png")
        cv2.imwrite(path, cv2.cvtColor(pair, cv2.COLOR_RGB2BGR))

    def _write_video(self, overlay_hwc: np.ndarray) -> None:
        if self._video is None:
            self._video_size = (overlay_hwc.shape[1], overlay_hwc.shape[0])
            path = os.path.join(self.folder, "overlay.webm")
            fourcc = cv2.VideoWriter_fourcc(*"VP80")
            self._video = cv2.VideoWriter(path, fourcc, self._clip.fps, self._video_size)
            if not self._video.isOpened():
                raise SegmentationError("%s: this OpenCV cannot write VP8 video" % path)
        bgr = cv2.cvtColor(overlay_hwc, cv2.COLOR_RGB2BGR)
        if (bgr.shape[1], bgr.shape[0]) != self._video_size:
            bgr = cv2.resize(bgr, self._video_size)
        self._video.write(bgr)


def run(arguments: argparse.Namespace) -> int:
    """Play the clip through the node; 1 when a frame was lost or a header changed."""
    from segmentation_node.evaluation.live.graph import joined_graph

    model = arguments.model or (CAMVID_MODEL if arguments.input else STREET_MODEL)
    parameters = {"model": model, "backend": arguments.backend, "frame_policy": "every"}
    with new_folder(arguments.output, LAYOUT, sources=[arguments.input, model]) as folder:
        clip = open_clip(arguments.input, arguments.frames)
        os.makedirs(os.path.join(folder, "class_maps"))
        recorder = Recorder(folder, clip)
        with joined_graph():
            interrupted, sent, statuses = _play(recorder, clip, parameters)
        lost = 0 if interrupted else sent - recorder.frames
        _summarise(folder, recorder, lost, statuses)
    print(
        "%d frames segmented, %d lost, %d headers changed; see %s/overlay.webm"
        % (recorder.frames, lost, recorder.header_mismatches, arguments.output)
    )
    return 1 if lost or recorder.header_mismatches else 0


def _play(recorder: Recorder, clip: Clip, parameters: Dict[str, Any]) -> Tuple[bool, int, List]:
    """Whether Ctrl-C ended it, how many images were sent, and the node's last statuses."""
    from segmentation_node.evaluation.live.replay import Replay

    interrupted = False
    replay = Replay(on_result=recorder.take)
    try:
        with NodeProcess(parameters) as process:
            try:
                replay.wait_until_ready(process)
                if clip.truth is not None:
                    labels = LABEL_SETS[replay.status.label_info.label_set]
                    recorder.accuracy = Accuracy(labels, clip.truth)
                replay.play(recorder.images(), process, rate_hz=clip.fps, in_flight=IN_FLIGHT)
                replay.spin_for(1.1)  # one more report, with every frame in it
            except KeyboardInterrupt:
                interrupted = True
                print("interrupted: the results so far are kept", file=sys.stderr)
    finally:
        recorder.close()
        sent, statuses = replay.sent, replay.status.diagnostics
        replay.destroy_node()
    return interrupted, sent, statuses


def _summarise(folder: str, recorder: Recorder, lost: int, statuses: List[Any]) -> None:
    content: Dict[str, Any] = {
        "frames_sent": recorder.frames + lost,
        "frames_segmented": recorder.frames,
        "frames_lost": lost,
        "header_mismatches": recorder.header_mismatches,
        "stages_ms": recorder.stages_ms(),
    }
    with open(os.path.join(folder, "diagnostics.txt"), "w") as text:
        text.write(_diagnostics_text(statuses))
    print(report.latency_table(content["stages_ms"]))
    if recorder.accuracy is not None:
        content["accuracy"] = recorder.accuracy.as_json()
        print()
        print(report.accuracy_table(content["accuracy"]))
    report.write_json(os.path.join(folder, "latency.json"), content)
    print()


def _diagnostics_text(statuses: List[Any]) -> str:
    if not statuses:
        return "no diagnostics arrived\n"
    last = statuses[-1]
    levels = {b"\x00": "OK", b"\x01": "WARN", b"\x02": "ERROR", b"\x03": "STALE"}
    lines = ["%s %s: %s" % (levels[last.level], last.name, last.message)]
    lines += ["  %s: %s" % (item.key, item.value) for item in last.values]
    return "\n".join(lines) + "\n"


def _progress_bar(total: Optional[int]) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="frame", desc="segmenting")


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the demo; a known error is one line and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="segmentation_node.evaluation.commands.demo", description=__doc__
    )
    parser.add_argument(
        "--input", default="", help="bag, image folder, video file, or camera (0, ...)"
    )
    parser.add_argument("--model", default="", help="model folder or name")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--frames", type=int, default=0, help="play at most this many")
    parser.add_argument("--output", default=os.path.join("out", "demo"))
    parsed = parser.parse_args(arguments)
    prepare_middleware()
    try:
        return run(parsed)
    except SegmentationError as error:
        print("error: %s" % error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
