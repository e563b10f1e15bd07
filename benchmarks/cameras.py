"""``python -m benchmarks.cameras``: several cameras into one node and into a node each, in turns.

The cameras publish one after the other, each at the same rate (``--rate-hz``), all together more
than two cores can do. For every way and round fresh nodes are started, so that the memory is theirs
alone. Figures are medians over the rounds but for the least share, ratios those of one round to a
node each. The images have the size of the network's input.
"""

import argparse
import contextlib
import sys
from functools import partial

import numpy as np

from benchmarks import MODEL, end_with, shown
from benchmarks.nodes import Player, cpu_s, image_messages, local_graph, memory_mb, quiet_node
from benchmarks.options import THREADS, parser_of, settings_of, size_text
from benchmarks.record import Record
from benchmarks.timing import in_rounds, medians, ratios
from segmentation_node.backends import BACKENDS
from segmentation_node.model_card import ModelCard, open_model

ONE, SEPARATE = "one node", "a node each"
WARM_UP_S = 2.0


def measure(card: ModelCard, options: argparse.Namespace, way: str) -> dict[str, float]:
    """One turn of a way."""
    names = [f"camera_{number}" for number in range(options.cameras)]
    given = {"model": card.folder, "backend": options.backend, "num_threads": options.threads}
    nodes = [quiet_node(given, [f"__ns:=/{name}"]) for name in names if way == SEPARATE]
    nodes = nodes or [quiet_node({**given, "cameras": names})]
    output = "/segmentation_node/{}/class_map" if way == ONE else "/{}/segmentation_node/class_map"
    messages, turn_s = image_messages(card.input_size), options.turn_s
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(node)
        topics = {f"/{name}/image": output.format(name) for name in names}
        player = stack.enter_context(Player(topics, "cameras"))
        player.wait_until_ready(nodes[0])
        player.play_at(options.rate_hz, messages, WARM_UP_S)
        before_s = cpu_s(nodes)
        player.play_at(options.rate_hz, messages, turn_s)
        spent_s, held_mb = cpu_s(nodes) - before_s, memory_mb(nodes)
    total = len(player.frames)
    if not total:
        sys.exit(f"cameras: {way} gave no class map within {turn_s:g} s")
    ages_ms = [(received_s - sent_s) * 1e3 for _, sent_s, received_s in player.frames]
    frames = np.bincount([camera for camera, _, _ in player.frames], minlength=len(names))
    return {
        "frame_rate_fps": total / turn_s,  # class maps that came, of all cameras
        "least_share": float(frames.min() / frames.mean()),  # of the camera with fewest
        "median_age_ms": float(np.median(ages_ms)),  # from sending an image to its class map
        "p95_age_ms": float(np.quantile(ages_ms, 0.95)),
        "memory_mb": held_mb,  # MiB of all nodes; what they share counts once (PSS)
        "cpu_ms_per_frame": spent_s / total * 1e3,  # of all nodes
        "cores_used": spent_s / turn_s,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure both ways in turns; write and print the rows."""
    defaults = {"model": MODEL, "backend": "onnxruntime", "cameras": 6, "rate_hz": 5.0}
    defaults.update(rounds=3, turn_s=15.0, threads=THREADS)
    parser = parser_of("cameras", __doc__, {"backend": BACKENDS}, **defaults)
    options = parser.parse_args(arguments)
    card = open_model(options.model)
    record = Record("cameras", settings_of(options), arguments)
    with local_graph():
        turns = in_rounds(partial(measure, card, options), [SEPARATE, ONE], options.rounds)
    about = {"model": card.name, "backend": options.backend, "image": size_text(card.input_size)}
    rows = []
    for way, found in turns.items():
        row = {**about, "way": way, **medians(found)}
        row["least_share"] = min(turn["least_share"] for turn in found)
        for name, key in (("frame_rate_ratio", "frame_rate_fps"), ("memory_ratio", "memory_mb")):
            row[name] = float(np.median(ratios(found, turns[SEPARATE], key)))
        rows.append(row)
    record.finish(rows, options.output, SHOWN)


SHOWN = shown.one_table(
    "cameras",
    {
        "Cameras into": "{way}",
        "Frames/s": "{frame_rate_fps:.1f} ({frame_rate_ratio:.2f})",
        "Least share": "{least_share:.2f}",
        "Age, ms (p95)": "{median_age_ms:.0f} ({p95_age_ms:.0f})",
        "Memory": "{memory_mb:.0f} MiB ({memory_ratio:.2f})",
        "CPU time a frame": "{cpu_ms_per_frame:.0f} ms",
        "Cores": "{cores_used:.2f}",
    },
)


if __name__ == "__main__":
    end_with(main)
