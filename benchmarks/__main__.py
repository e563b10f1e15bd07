"""``python -m benchmarks``: run the measurements, print tables, write benchmarks/results."""

import argparse
import os
from pathlib import Path

import rclpy

from benchmarks import host_cost
from benchmarks.machine import machine_facts
from segmentation_node.evaluation.report import write_json
from segmentation_node.ros.demo import prepare_middleware

RESULTS = Path(__file__).parent / "results"
SIZES = ((360, 640), (720, 1280))


def main() -> None:
    """Measure the host's cost per frame for two sizes, with and without overlay."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--model", default="fast_elu_squeezenet_camvid")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    prepare_middleware()
    facts = machine_facts()
    rclpy.init()
    try:
        results = []
        for size in SIZES:
            for with_overlay in (False, True):
                print(f"{size[1]}x{size[0]}, overlay {with_overlay} ...", flush=True)
                results.append(
                    host_cost.measure(
                        arguments.model, size, arguments.frames, with_overlay, arguments.threads
                    )
                )
    finally:
        rclpy.shutdown()
    print(host_cost.summary(results))
    path = arguments.output / "host_cost.json"
    write_json(str(path), {"command": "make bench", "machine": facts, "results": results})
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
