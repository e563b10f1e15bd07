"""What a dataclass may be made from: each kind of field, as Python 3.6 and later ones keep them."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

import pytest

from segmentation_node.plain_values import build


@dataclass(frozen=True)
class Wheel:
    radius_m: float
    name: str = ""


@dataclass(frozen=True)
class Car:
    seats: int
    wheels: List[Wheel]
    electric: bool = False
    size_m: Tuple[float, float] = (4.0, 2.0)
    gears: Tuple[int, ...] = ()
    names: Union[str, Tuple[str, ...]] = ""
    spare: Optional[Wheel] = None
    load_kg: Dict[str, float] = field(default_factory=dict)
    extra: Any = None
    owner: str = field(default="nobody")


CAR = {"seats": 4, "wheels": [{"radius_m": 0.3}]}


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({}, "wheels", [Wheel(0.3)]),
        ({"wheels": []}, "wheels", []),
        ({"electric": True}, "electric", True),
        ({"size_m": [3, 2]}, "size_m", (3.0, 2.0)),
        ({"gears": [1, 2, 3]}, "gears", (1, 2, 3)),
        ({"names": "Ada"}, "names", "Ada"),
        ({"names": ["Ada", "Eve"]}, "names", ("Ada", "Eve")),
        ({"spare": {"radius_m": 1}}, "spare", Wheel(1.0)),
        ({"spare": None}, "spare", None),
        ({"load_kg": {"roof": 75}}, "load_kg", {"roof": 75.0}),
        ({"extra": [None, {"x": 1}]}, "extra", [None, {"x": 1}]),
    ],
)
def test_a_field_holds_the_value_as_its_type(changes, name, value):
    car = build(Car, dict(CAR, **changes), "the car", unset=("owner",))
    found = getattr(car, name)
    assert found == value and type(found) is type(value)
    assert car.owner == "nobody"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seats": 4.0}, "seats is 4.0 (float); expected int"),
        ({"seats": True}, "seats is True (bool); expected int"),
        ({"seats": 2**53}, "expected less than 9007199254740992"),
        ({"electric": 1}, "electric is 1 (int); expected bool"),
        ({"wheels": {}}, "wheels is {} (dict); expected a list"),
        ({"wheels": [{"radius_m": 0.3}, 4]}, "wheels[1] is 4 (int); expected a mapping with"),
        ({"wheels": [{"radius_m": "1e-1"}]}, "wheels[0].radius_m is '1e-1' (str); expected float"),
        ({"wheels": [{"radius_m": True}]}, "wheels[0].radius_m is True (bool); expected float"),
        ({"wheels": [{"radius": 1.0}]}, "unknown keys ['wheels[0].radius']; known keys are ['na"),
        ({"wheels": [{}]}, "missing keys ['wheels[0].radius_m']"),
        ({"size_m": [1.0]}, "size_m is [1.0]; expected 2 values"),
        ({"size_m": [1.0, float("nan")]}, "size_m is nan; expected a finite number"),
        ({"gears": [1, "two"]}, "gears is 'two' (str); expected int"),
        ({"names": 5}, "names is 5; expected text or a list"),
        ({"names": ["Ada", 5]}, "names is 5 (int); expected str"),
        (
            {"spare": []},
            "spare is [] (list); expected a mapping with the keys ['name'",
        ),
        ({"load_kg": {"roof": "much"}}, "load_kg.roof is 'much' (str); expected float"),
        ({"load_kg": {5: 1.0}}, "load_kg is 5 (int); expected str"),
        ({"owner": "Eve"}, "unknown keys ['owner']"),
    ],
)
def test_anything_else_is_one_line_that_names_the_key(changes, said):
    with pytest.raises(ValueError) as caught:
        build(Car, dict(CAR, **changes), "the car", unset=("owner",))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [None, [CAR], "car", 5])
def test_what_is_no_mapping_is_called_by_its_name(values):
    with pytest.raises(ValueError) as caught:
        build(Car, values, "the car")
    assert str(caught.value).startswith("the car is ") and "expected a mapping" in str(caught.value)
