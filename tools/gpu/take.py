"""Takes what came back from a GPU: ``python -m tools.gpu.take BACK --camvid CAMVID``.

Records the benchmarks, exports the trained networks, scores them on CamVid's val, and puts those
into ``models/`` that are better there than what is there. The others stay in ``--exports``; so does
one for which there is a model that val cannot say anything of.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from benchmarks import gpu, paper_tables
from benchmarks.record import problem, read_record
from benchmarks.shown import Shown, text
from segmentation_node.command_line import CommandParser
from segmentation_node.errors import SegmentationError, exit_code, reason
from segmentation_node.evaluation.report.text import table, write_json
from segmentation_node.evaluation.temperature import FIT
from segmentation_node.files import new_folder, write_whole
from segmentation_node.importing.model_folder import ARTIFACTS
from segmentation_node.model_card import CARD_FILE, ModelCard, read_card
from segmentation_node.yaml_and_json import parse_yaml, read_json
from tools.gpu import GPU_FILE, OUTCOME_FILE, ROOT, RUN_FILE, STEP_FILE, TRAININGS, GpuError
from tools.gpu.pack import size_of
from tools.gpu.parts import read_parts
from tools.gpu.weights import unpacked_weights
from training.checkpoint import WEIGHTS_FILE
from training.export import LAYOUT, export_run
from training.run_folder import LOG_FILE, RECIPE_FILE

RECORDS: dict[str, tuple[str, Shown]] = {
    GPU_FILE: ("gpu.json", gpu.SHOWN),
    STEP_FILE: ("gpu/paper_tables.json", paper_tables.SHOWN),
}
"""What came back -> its name in benchmarks/results, and how it is shown."""
SIZE, TOY_SIZE = (360, 480), (48, 64)
LARGEST_SHIPPED_BYTES = 64_000_000
"""Of a model's folder in the repository."""
INT8_WEIGHTS = ("segnet",)
"""Networks whose weights are 118 MB in float32, so their graphs store them as int8."""


class Trained(NamedTuple):
    """A network that came back, exported, beside the shipped one."""

    network: str
    card: ModelCard
    shipped: ModelCard | None

    @property
    def is_better(self) -> bool:
        """Whether it has the higher mean IoU on val, or there is no other."""
        if self.shipped is None:
            return True
        shipped = mean_iou(self.shipped)
        return shipped is not None and (mean_iou(self.card) or 0.0) > shipped


def mean_iou(card: ModelCard) -> float | None:
    """Of the model's own graph on CamVid's val, 0 to 1; None of one that was trained on that."""
    found = [
        entry.mean_iou
        for entry in card.accuracy
        if (entry.dataset, entry.split, entry.artifact) == ("camvid", "val", "onnx")
    ]
    return found[0] if found else None


def shipped_model(models: Path, network: str) -> ModelCard | None:
    """The best model of this network for CamVid's classes; None where there is none."""
    cards = [read_card(str(path.parent)) for path in sorted(models.glob(f"[!.]*/{CARD_FILE}"))]
    fitting = [
        card for card in cards if card.network.name == network and card.label_set == "camvid11"
    ]
    return max(fitting, key=lambda card: mean_iou(card) or 0.0, default=None)


class Take:
    """Of one folder that came back, into a checkout."""

    def __init__(self, back: Path, camvid: Path, into: Path, exports: Path) -> None:
        self.back, self.camvid, self.into, self.exports = back, camvid, into, exports
        if not (back / RUN_FILE).is_file():
            raise GpuError(f"{back}: no {RUN_FILE}; expected what tools.gpu.run wrote")
        self.run = read_json(str(back / RUN_FILE))
        self.models = into / "models"
        self.failed: list[str] = []
        if self.run["toy"] and into == ROOT:
            raise GpuError(f"{back} is a trial at toy size: --into names another folder for it")

    def take(self) -> int:
        """Everything that is whole; 1 where something was not."""
        rows = [[part["part"], part["ended"], f"{part['took_s']} s"] for part in self.run["parts"]]
        print(table(["part", "ended", "took"], rows))
        for name in RECORDS:
            self._try(name, lambda name=name: self.record(name))
        for network, files in self.returned():
            self._try(network, lambda item=(network, files): self.trained(*item))
        for line in self.failed:
            print(f"NOT TAKEN: {line}")
        return int(bool(self.failed))

    def record(self, name: str) -> None:
        """Put a benchmark's figures among the results, and show them."""
        path = self.back / name
        if not path.is_file():
            raise GpuError("did not come back")
        content = read_record(path)
        if found := problem(content):
            raise GpuError(found)
        content["machine"]["commit"] = self.run["commit"]
        target, shown = RECORDS[name]
        write_json(str(self.into / "benchmarks" / "results" / target), content)
        print(text(shown, content))

    def returned(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        """The files of every network whose weights arrived."""
        files: dict[str, dict[str, bytes]] = {}
        try:
            for name, content in read_parts(self.back):
                network, _, file = name.partition("/")
                files.setdefault(network, {})[file] = content
        except GpuError as error:
            self.failed.append(str(error))
        missing = [network for network in TRAININGS if network not in files]
        self.failed += [f"{network}: did not come back" for network in missing]
        for network, found in files.items():
            if f"{WEIGHTS_FILE}.z" in found:
                yield network, found

    def trained(self, network: str, files: dict[str, bytes]) -> None:
        """Export a network, and ship it where it is better than what is shipped."""
        name = f"{network}_camvid_gpu"
        shipped = shipped_model(self.models, network)
        folder = self._export(network, name, files, shipped)
        found = Trained(network, read_card(str(folder)), shipped)
        print(self._verdict(found, folder))
        if found.is_better and size_of(folder) <= LARGEST_SHIPPED_BYTES:
            self._ship(folder, name, files)

    def _export(
        self, network: str, name: str, files: dict[str, bytes], shipped: ModelCard | None
    ) -> Path:
        """The model's folder, with the forms, sizes and temperature that the shipped one has."""
        is_toy = self.run["toy"]
        model, sizes, has_temperature = f"{network}_camvid", [SIZE], False
        variants: list[str] = []
        if shipped is not None:
            model, has_temperature = shipped.name, shipped.temperature != 1.0
            sizes += shipped.sizes("onnx")
            forms = ARTIFACTS.items()
            variants = [variant for variant, (_, kind, _) in forms if shipped.offers(kind)]
        command = f"python -m training.train training/recipes/{name}.yaml"
        if not parse_yaml(files[OUTCOME_FILE], f"{network}/{OUTCOME_FILE}")["finished"]:
            command += ", unfinished"
        return export_run(
            self._write_run(name, files),
            model,
            self.exports,
            str(self.camvid),
            [TOY_SIZE] if is_toy else sizes,
            [1],
            variants,
            temperature=FIT if has_temperature else 1.0,
            # A toy's scores are as good as equal: torch and ONNX Runtime would not agree on them.
            int8_weights=network in INT8_WEIGHTS and not is_toy,
            provenance=command,
        )

    def _write_run(self, name: str, files: dict[str, bytes]) -> Path:
        """The run's folder, as training.train would have left it here."""
        run = self.exports / "runs" / name
        for file in (RECIPE_FILE, LOG_FILE):
            write_whole(str(run / file), files[file])
        save_file(unpacked_weights(files[f"{WEIGHTS_FILE}.z"]), str(run / WEIGHTS_FILE))
        return run

    def _verdict(self, found: Trained, folder: Path) -> str:
        line = f"{found.network}: mean IoU on val {mean_iou(found.card):.1%}"
        if found.shipped is not None:
            shipped = mean_iou(found.shipped)
            if shipped is None:
                return f"{line}: {found.shipped.name} was not scored on val; stays in {folder}"
            line += f", shipped {shipped:.1%}"
        if not found.is_better:
            return f"{line}: not better, stays in {folder}"
        if size_of(folder) > LARGEST_SHIPPED_BYTES:
            limit = LARGEST_SHIPPED_BYTES / 1e6
            return f"{line}: larger than the {limit:.0f} MB that are shipped, stays in {folder}"
        return f"{line}: BETTER, now in {self.models / folder.name}"

    def _ship(self, folder: Path, name: str, files: dict[str, bytes]) -> None:
        with new_folder(str(self.models / folder.name), LAYOUT, [str(folder)]) as new:
            shutil.copytree(folder, new)
        training = self.into / "training"
        write_whole(str(training / "recipes" / f"{name}.yaml"), files[RECIPE_FILE])
        write_whole(str(training / "logs" / f"{name}.csv"), files[LOG_FILE])

    def _try(self, what: str, work: Any) -> None:
        """One thing that fails does not keep the others."""
        try:
            work()
        except (SegmentationError, OSError, LookupError, TypeError, ValueError) as error:
            self.failed.append(f"{what}: {reason(error)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take; 1 where something did not come back whole."""
    parser = CommandParser(prog="python3 -m tools.gpu.take", description=__doc__)
    parser.add_argument("back", type=Path, help="folder that tools.gpu.run wrote")
    parser.add_argument(
        "--camvid",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="CamVid: train, trainannot, val, ...",
    )
    parser.add_argument(
        "--into",
        type=Path,
        default=ROOT,
        metavar="FOLDER",
        help="checkout to take it into; default: this one",
    )
    parser.add_argument(
        "--exports",
        type=Path,
        default=ROOT / "out" / "gpu" / "exports",
        metavar="FOLDER",
        help="where networks stay that are not better than the checkout's; default: "
        "out/gpu/exports",
    )
    options = parser.parse_args(arguments)

    def take() -> int:
        into = options.into.resolve()
        return Take(options.back, options.camvid.resolve(), into, options.exports).take()

    return exit_code(take)


if __name__ == "__main__":
    sys.exit(main())
