"""The stand-ins for TensorRT offer what the official bindings offer, of what is used here.

Backend and builder run on them in test/core, in every dialect. A name, a call or a question
(`hasattr`) that passes there is right in TensorRT, because a stand-in has a name exactly where its
version has it, as the same kind of thing and with the same parameters.
"""

import ast
import inspect
import re
from pathlib import Path

import pytest
from support import tensorrt_wheels
from support.core import fake_tensorrt
from support.core.fake_gpu import DIALECTS

import segmentation_node.backends.tensorrt as package

PINS = tensorrt_wheels.read_pins()
# 8.2.1 (JetPack 4.6) and 8.5.2 (JetPack 5.1) have no wheels. Read in the bindings' sources,
# python/src of NVIDIA/TensorRT at tags 8.2.1 and 8.5.2: 8.5.2 has all of this, 8.2.1 nothing.
SINCE_8_5 = {
    "": "MemoryPoolType TensorIOMode",
    "DataType": "UINT8",
    "IBuilderConfig": "set_memory_pool_limit",
    "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_mode get_tensor_shape "
    "get_tensor_dtype",
    "IExecutionContext": "execute_async_v3 set_tensor_address",
}
OWN_NAMES = ("build.py", "versions.py")  # the other files hand TensorRT's objects on


def stand_in(dialect):
    """Class ("" is the module) -> public name -> what the stand-in has there."""
    module = fake_tensorrt.module(dialect)
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    functions = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
    functions = {name: value for name, value in functions.items() if not name.startswith("_")}
    found = {name: public(value) for name, value in classes.items()}
    severity = public(module.ILogger.Severity)
    return {**found, "Severity": severity, "": {**classes, **functions}}


def public(kind):
    if hasattr(kind, "__members__"):
        return dict(kind.__members__)  # of an enumeration
    names = [name for name in dir(kind) if not name.startswith("_")]
    values = {name: inspect.getattr_static(kind, name) for name in names}
    values.update(dict.fromkeys(getattr(kind, "_settable", ()), "settable"))
    init = kind.__dict__.get("__init__")
    return {**values, "__init__": init} if init and kind.__name__ in CONSTRUCTED else values


CONSTRUCTED = ("Builder", "ILogger", "IProgressMonitor", "OnnxParser", "Runtime")
STAND_INS = {dialect: stand_in(dialect) for dialect in DIALECTS}


def known(owner):
    """Names that the stand-in of any dialect has in a class."""
    return set().union(*(found.get(owner, {}) for found in STAND_INS.values()))


OWNERS = known("") | {"", "Severity"}


@pytest.fixture(scope="module", params=PINS, ids=lambda pin: pin.version)
def official(request):
    """What a version of the bindings has, and the dialect that stands for it."""
    if not request.param.has_wheel:
        pytest.skip(tensorrt_wheels.missing(request.param))
    major = request.param.version.split(".")[0]
    return tensorrt_wheels.read_listing(request.param), "8.6" if major == "8" else major


def test_a_stand_in_has_the_names_that_its_version_has(official):
    members, dialect = official
    for owner in OWNERS:
        expected = known(owner) & set(members.get(owner, ()))
        assert set(STAND_INS[dialect].get(owner, ())) == expected, owner


def test_8_2_lacks_what_came_with_8_5():
    for owner in OWNERS:
        old, new = (set(STAND_INS[dialect].get(owner, ())) for dialect in ("8.2", "8.6"))
        if owner in STAND_INS["8.2"]:
            assert new - old == set(SINCE_8_5.get(owner, "").split()), owner
        assert old <= new, "NVIDIA removed nothing within 8"


def test_what_a_stand_in_has_is_of_the_same_kind_and_takes_the_same(official):
    members, dialect = official
    for owner, offered in STAND_INS[dialect].items():
        for name, value in offered.items():
            kind, signatures = members[owner][name]
            assert differs(value, kind, signatures) == "", f"{owner}.{name}"


def differs(value, kind, signatures):
    """How a stand-in's attribute differs from the official one; empty if it does not."""
    if inspect.isfunction(value):
        names = list(inspect.signature(value).parameters)[1:]
        is_same = kind == "method" and any(takes(names, text) for text in signatures)
    elif isinstance(value, str):  # "settable"
        is_same = kind == "writable property"
    else:
        is_same = kind.endswith("property") if isinstance(value, property) else kind != "method"
    return "" if is_same else f"is a {kind} {signatures}"


def takes(names, text):
    """Whether `(self: A, b: int, c: str = '') -> D` may be called with just these names."""
    parameters = re.findall(r"(?:^\(|, )(\w+): (.*?)(?=, \w+: |\) -> )", text)[1:]
    first, rest = parameters[: len(names)], parameters[len(names) :]
    return [name for name, _ in first] == names and all(" = " in about for _, about in rest)


@pytest.mark.parametrize("file", OWN_NAMES)
def test_no_official_name_is_used_that_the_stand_ins_lack(official, file):
    """Not even where no test comes by."""
    members, _ = official
    tree = ast.parse((Path(package.__file__).parent / file).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    theirs = {name for owner in OWNERS for name in members.get(owner, ())}
    assert used & theirs - {"name", "__version__"} <= set().union(*map(known, OWNERS))


@pytest.mark.parametrize(
    ("value", "kind", "signatures"),
    [
        (lambda self, number: 0, "method", ["(self: A, index: int) -> str"]),
        (lambda self: 0, "method", ["(self: A, logger: ILogger) -> None"]),
        (lambda self, a, b: 0, "method", ["(self: A, a: int = 0) -> None"]),
        (lambda self: 0, "property", []),
        (property(len), "method", ["(self: A) -> int"]),
        ("settable", "property", []),
    ],
)
def test_a_difference_is_found(value, kind, signatures):
    assert differs(value, kind, signatures)


def test_what_may_be_left_out_is_no_difference():
    text = "(self: A, b: List[int], c: E = <E.STATIC: 0>, d: Tuple[int, int] = None) -> F"
    assert differs(lambda self, b: 0, "method", [text]) == ""
