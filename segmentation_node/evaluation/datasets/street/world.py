"""What stands and moves along the road: an endless street, made from hashed slots."""

import math
from functools import lru_cache
from typing import Iterator, List, NamedTuple

from segmentation_node.evaluation.datasets.street.camera import Camera
from segmentation_node.evaluation.datasets.street.noise import between, unit

BUILDING_SLOT_M = 18.0
FRONT_U_M = 12.0
ZEBRA_EVERY_M = 64.0
ZEBRA_MIDDLE_M = 3.5

Row = NamedTuple(
    "Row",
    [
        ("kind", str),
        ("spacing_m", float),
        ("u_low_m", float),
        ("u_high_m", float),
        ("share", float),
        ("speed_mps", float),
        ("range_m", float),
    ],
)
"""One thing every `spacing_m` along one side; `share` of the slots are filled."""

Item = NamedTuple(
    "Item",
    [
        ("kind", str),
        ("u_m", float),
        ("s_m", float),
        ("way", int),
        ("pick", float),
        ("phase", float),
        ("side", int),
    ],
)
"""One thing at one moment; `way` is +1 when it faces along the road, as the camera does."""

House = NamedTuple(
    "House", [("start_m", float), ("end_m", float), ("height_m", float), ("variant", int)]
)

ROWS = (
    Row("tree", 12.0, 6.4, 6.8, 0.75, 0.0, 95.0),
    Row("bush", 6.0, 11.2, 11.5, 0.35, 0.0, 60.0),
    Row("lamp", 21.0, 5.95, 6.1, 1.0, 0.0, 30.0),
    Row("sign", 13.0, 5.95, 6.2, 0.9, 0.0, 30.0),
    Row("bicycle", 9.0, 7.5, 8.4, 0.8, 0.0, 28.0),
    Row("walker", 7.0, 8.6, 11.0, 0.85, 1.3, 30.0),
    Row("walker", 8.0, 7.9, 10.4, 0.85, -1.3, 30.0),
    Row("parked", 6.6, 4.3, 4.5, 0.3, 0.0, 70.0),
    Row("cyclist", 15.0, 2.9, 3.1, 0.9, 4.5, 30.0),
    Row("oncoming", 34.0, -1.9, -1.6, 0.8, -9.0, 75.0),
    Row("crossing", ZEBRA_EVERY_M, 0.0, 0.1, 0.8, 0.0, 32.0),
)
NEAREST_M = 1.0


def items(seed: int, camera: Camera, time_s: float) -> List[Item]:
    """Everything in range, in no order."""
    found = [_lead_car(seed, camera, time_s)]
    for number, row in enumerate(ROWS):
        sides = (1,) if row.kind in ("oncoming", "crossing") else (-1, 1)
        for side in sides:
            found.extend(_row_items(seed, number, row, side, camera, time_s))
    return found


def _row_items(
    seed: int, number: int, row: Row, side: int, camera: Camera, time_s: float
) -> Iterator[Item]:
    against = row.kind == "cyclist" and side < 0
    moved_m = (-row.speed_mps if against else row.speed_mps) * time_s
    first = int(math.floor((camera.s_m - moved_m - NEAREST_M) / row.spacing_m)) - 1
    last = int(math.ceil((camera.s_m - moved_m + row.range_m) / row.spacing_m))
    for slot in range(first, last + 1):
        key = (seed, 100 + number, side, slot)
        if unit(*(key + (0,))) >= row.share:
            continue
        jitter = 0.1 if row.kind == "parked" else 0.3
        s_m = (slot + between(-jitter, jitter, *(key + (1,)))) * row.spacing_m + moved_m
        u_m = side * between(row.u_low_m, row.u_high_m, *(key + (2,)))
        way = -1 if against or row.speed_mps < 0 or (row.kind == "parked" and side < 0) else 1
        from_zebra_m = (s_m - ZEBRA_MIDDLE_M + 32.0) % ZEBRA_EVERY_M - 32.0
        if row.kind == "parked" and abs(from_zebra_m) < 5.0:
            continue
        if row.kind == "crossing":
            s_m -= from_zebra_m
            u_m = _crossing_u_m(s_m - camera.s_m)
        yield Item(row.kind, u_m, s_m, way, unit(*(key + (3,))), unit(*(key + (4,))), side)


def _crossing_u_m(ahead_m: float) -> float:
    """Comes from the left pavement and waits at the middle while the camera passes."""
    return -0.45 - 6.0 * min(max((ahead_m - 12.0) / 20.0, 0.0), 1.0)


def _lead_car(seed: int, camera: Camera, time_s: float) -> Item:
    gap_m = 21.0 + 8.0 * math.sin(0.3 * time_s + between(0.0, 6.3, seed, 50))
    drift = 0.15 * math.sin(0.4 * time_s + between(0.0, 6.3, seed, 51))
    pick = unit(seed, 52, int(math.floor((time_s + 1000.0) / 20.0)))
    return Item("lead", 1.75 + drift, camera.s_m + gap_m, 1, pick, 0.0, 1)


@lru_cache(maxsize=4096)
def house(seed: int, side: int, slot: int, variants: int) -> House:
    """The house in one slot of one side of the road."""
    key = (seed, 60, side, slot)
    joined = unit(*(key + (0,))) < 0.35
    gaps = [0.0 if joined else between(0.4, 3.6, *(key + (n,))) for n in (1, 2)]
    floors = 2 + int(3 * unit(*(key + (3,))))
    start_m = slot * BUILDING_SLOT_M
    return House(
        start_m + 1.0 + gaps[0],
        start_m + BUILDING_SLOT_M - 1.0 - gaps[1] + 2.0 * joined,
        3.2 * floors + between(0.5, 2.2, *(key + (4,))),
        int(variants * unit(*(key + (5,)))),
    )
