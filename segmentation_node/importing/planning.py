"""What a foreign network takes and gives: said by somebody, or seen when it runs on pictures.

Every finding is shown with its reason; what is missing is asked for in one line.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from segmentation_node.errors import NetworkImportError
from segmentation_node.importing import original
from segmentation_node.importing.families import recognise, told_by
from segmentation_node.importing.foreign import Foreign, read_entry, steps_of
from segmentation_node.importing.head import IDS, arrange, kind_of
from segmentation_node.importing.pictures_to_check import Pictures
from segmentation_node.importing.plan import Entry, Plan
from segmentation_node.importing.settings import Settings, Settled, Told, settle
from segmentation_node.importing.side_files import Surroundings
from segmentation_node.labels import LABEL_SETS, MOST_CLASSES, UNLABELLED, LabelSet
from segmentation_node.model_card import size_text

LOOKED_AT = 3
"""Pictures that the original runs on before it is known what its output means."""
NONE_GIVEN = "default"

Say = Callable[[str, str], None]
"""Shows a finding: what it is of, and the finding."""


def settle_from(family: str, given: Settings, foreign: Foreign, say: Say) -> tuple[str, Settled]:
    """The family, and everything that is said of the network: by the user, files, the family."""
    around = Surroundings(foreign.path, foreign.metadata)
    why = "given"
    if not family:
        family, marks = recognise(around)
        why = f"recognised by {marks}"
    say("family", f"{family or 'unknown'} ({why})" if family else "none given, none recognised")
    told = told_by(family, around) if family else []
    return family, settle([Told("given", given), *told])


def entry_and_size(foreign: Foreign, settled: Settled, say: Say) -> tuple[Entry, tuple[int, int]]:
    """The input, and the height and width of the pictures that it takes."""
    entry, fixed, why = read_entry(foreign, settled.settings.layout)
    wanted = settled.settings.size
    by = settled.by.get("size", "")
    if None in fixed and wanted is None:
        raise NetworkImportError(
            f"{foreign.path.name}: the size of its input is not fixed; give --size HxW"
        )
    sides = [own or asked for own, asked in zip(fixed, wanted or fixed, strict=True)]
    size = (int(sides[0] or 0), int(sides[1] or 0))
    if wanted is not None and size != wanted and by == "given":
        raise NetworkImportError(
            f"{foreign.path.name}: its input is fixed at {size[0]}x{size[1]}, but --size is "
            f"{wanted[0]}x{wanted[1]}; leave --size out, or export the network at that size"
        )
    size_by = "fixed in the file" if None not in fixed else by
    layout_by = why or settled.by.get("layout", NONE_GIVEN)
    say("input", f"{entry.name}, {entry.dtype}, {size[0]}x{size[1]} ({size_by})")
    say("layout", f"{entry.layout} ({layout_by})")
    if entry.batch != 1:
        say("batch", f"1 in place of {entry.batch}")
    return entry, size


def make_plan(
    foreign: Foreign,
    settled: Settled,
    entry: Entry,
    size: tuple[int, int],
    run: original.Run,
    pictures: Pictures,
    say: Say,
) -> Plan:
    """Everything that the graph is made of; the original is run to see what it gives."""
    told, name = settled.settings, foreign.path.name
    scale, mean, std = _normalisation(name, settled, entry, say)
    order = told.order or "rgb"
    say("order", f"{order} ({settled.by.get('order', NONE_GIVEN)})")
    resize = told.resize or "stretch"
    if told.cropped:
        whole = f"the node stretches all of it to {size_text(size)}"
        say("note", f"{told.cropped}, {whole}; docs/importing.md says what else goes")
    looked_at = pictures.at_size(size, resize, LOOKED_AT)
    outputs = [
        run(original.network_input(picture, entry, order, scale, mean, std))
        for picture in looked_at
    ]
    head = _head(name, settled, outputs[0], say)
    shape = outputs[0][head].shape
    if entry.batch > 1 and shape[:1] == (entry.batch,):
        shape = (1, *shape[1:])
    classes = len(told.labels) if told.labels is not None else None
    with _naming_others(head, outputs[0]):
        arrangement = arrange(shape, size, classes, entry.layout == "nhwc")
        arrangement = replace(arrangement, steps=steps_of(foreign.model, head))
        planes = [arrangement.planes(output[head]) for output in outputs]
        if not all(np.isfinite(plane).all() for plane in planes):
            raise NetworkImportError(f"{name}: {head} holds values that are no numbers")
        kind, why = kind_of(planes)
        say("output", f"{head}: {arrangement} (shape {list(shape)}, seen in a run)")
        say("values", f"{kind} ({why})")
        if told.by_corners and arrangement.grid != size:
            say("enlarged", f"corner pixels on corner pixels ({settled.by['by_corners']})")
        labels = _labels(name, settled, arrangement.channels, kind, planes)
    plan = Plan(
        entry=entry,
        size=size,
        mean=mean,
        std=std,
        scale=scale,
        order=order,
        head=head,
        arrangement=arrangement,
        kind=kind,
        threshold=_threshold(name, settled, kind, say),
        id_offset=told.id_offset or 0,
        labels=labels,
        resize=resize,
        by_corners=bool(told.by_corners),
    )
    _say_labels(plan, settled, say)
    return plan


def _normalisation(
    name: str, settled: Settled, entry: Entry, say: Say
) -> tuple[float, tuple[float, float, float], tuple[float, float, float]]:
    told, by = settled.settings, settled.by
    if entry.dtype == "uint8":
        if "given" in (by.get(key) for key in ("scale", "mean", "std")):
            raise NetworkImportError(
                f"{name}: it takes bytes and normalises them itself; leave --scale, --mean and "
                "--std out"
            )
        say("normalisation", "none (it takes bytes)")
        return 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if told.scale is None and told.mean is None and told.std is None:
        raise NetworkImportError(
            f"{name}: the file does not say how pictures are normalised; give --from FAMILY, or "
            "--scale, --mean and --std (the network sees (pixel * scale - mean) / std)"
        )
    scale = 1.0 if told.scale is None else told.scale
    mean, std = told.mean or (0.0, 0.0, 0.0), told.std or (1.0, 1.0, 1.0)
    if not np.isfinite([scale, *mean, *std]).all() or min(std) <= 0 or scale <= 0:
        raise NetworkImportError(
            f"{name}: scale {scale}, mean {list(mean)}, std {list(std)}; expected finite numbers, "
            "scale and std above 0"
        )
    if by.get("scale") != "given" and "given" in (by.get("mean"), by.get("std")):
        brightest = 255 * scale
        if max(mean) > brightest or max(*mean, *std) <= 1 < brightest:
            raise NetworkImportError(
                f"{name}: mean {_listed(mean)} and std {_listed(std)}, but pixels of 0 to "
                f"{brightest:g} (scale {scale:.6g}, {by.get('scale', NONE_GIVEN)}); give --scale "
                "too: 0.00392157 (1/255) where the network sees 0 to 1, 1 where it sees 0 to 255"
            )
    tellers = sorted({by.get(key, NONE_GIVEN) for key in ("scale", "mean", "std")})
    formula = f"(pixel * {scale:.6g} - {_listed(mean)}) / {_listed(std)}"
    say("normalisation", f"{formula} ({'; '.join(tellers)})")
    return scale, mean, std


@contextmanager
def _naming_others(head: str, outputs: dict[str, np.ndarray]) -> Iterator[None]:
    """What is wrong with an output may be that another one was meant."""
    try:
        yield
    except NetworkImportError as error:
        others = {key: value for key, value in outputs.items() if key != head}
        if not others:
            raise
        raise NetworkImportError(
            f"{error}; this is of {head}, --output-head takes another: {_shapes(others)}"
        ) from error


def _shapes(outputs: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{key} {list(value.shape)}" for key, value in outputs.items())


def _head(name: str, settled: Settled, outputs: dict[str, np.ndarray], say: Say) -> str:
    names, wanted, listed = list(outputs), settled.settings.head, _shapes(outputs)
    if isinstance(wanted, int):
        if len(names) > 1:
            say("head", f"{names[wanted]} of {listed} ({settled.by['head']})")
        return names[wanted]
    if wanted is None and len(names) > 1:
        raise NetworkImportError(
            f"{name}: {len(names)} outputs: {listed}; choose one by --output-head NAME"
        )
    if wanted is not None and wanted not in names:
        raise NetworkImportError(f"{name}: no output {wanted!r}; there are: {listed}")
    return wanted or names[0]


def _threshold(name: str, settled: Settled, kind: str, say: Say) -> float:
    usual = {"sigmoids": 0.5, "probability": 0.5, "score": 0.0}
    given = settled.settings.threshold
    if kind not in usual:
        if given is not None and settled.by["threshold"] == "given":
            raise NetworkImportError(
                f"{name}: its values are {kind}, of which the highest counts; leave --threshold out"
            )
        return float("nan")
    threshold = usual[kind] if given is None else given
    say("threshold", f"{threshold:g} ({settled.by.get('threshold', NONE_GIVEN)})")
    return threshold


def _labels(
    name: str, settled: Settled, channels: int, kind: str, planes: Sequence[np.ndarray]
) -> LabelSet:
    """The label set, whose number of classes fits what the network gives."""
    labels, offset = settled.settings.labels, settled.settings.id_offset or 0
    ids = {int(value) for plane in planes for value in np.unique(plane)} if kind == IDS else set()
    found = (
        f"ids up to {max(ids)}" if ids else f"{channels} channel{'s' * (channels > 1)} of {kind}"
    )
    if kind != IDS and channels > MOST_CLASSES:
        raise NetworkImportError(f"{name}: {channels} classes, expected at most {MOST_CLASSES}")

    def fits(count: int) -> bool:
        if kind == IDS:
            return all(value + offset < count or value >= UNLABELLED for value in ids)
        return count - offset in (channels, channels + (kind not in ("logits", "softmax")))

    if labels is None:
        known = ", ".join(key for key, item in LABEL_SETS.items() if fits(len(item)))
        others = f", or with one of {known}" if known else ""
        raise NetworkImportError(
            f"{name}: {found} without names; give --labels with a labels.yaml, as "
            f"docs/importing.md shows one{others}"
        )
    if kind == IDS and len(labels) == 1 and settled.settings.id_offset is None:
        raise NetworkImportError(
            f"{name}: its output is ids, and label set {labels.name} has one class, which may be 0 "
            "or 1; give --id-offset 0, or --id-offset -1 where 0 is the background"
        )
    if not fits(len(labels)):
        more = f", with --id-offset {offset}" if offset else ""
        raise NetworkImportError(
            f"{name}: {found}{more}, but label set {labels.name} has {len(labels)} classes; give "
            "--labels or --id-offset that fit"
        )
    return labels


def _say_labels(plan: Plan, settled: Settled, say: Say) -> None:
    names = plan.labels.names
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    say("labels", f"{plan.labels.name}, {len(names)} classes: {shown} ({settled.by['labels']})")
    ids = plan.class_ids()
    if plan.kind in ("sigmoids", "probability", "score"):
        none = "unlabelled" if ids[0] == UNLABELLED else names[ids[0]]
        say("background", f"{none}, where nothing is above the threshold")
    if plan.id_offset:
        say("ids", f"the network's {plan.id_offset:+d}; others are unlabelled")


def _listed(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
