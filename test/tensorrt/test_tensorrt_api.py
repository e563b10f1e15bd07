"""Backend and builder use no name and no call that their version of TensorRT lacks.

Their own tests run once more on the stand-ins for TensorRT, and each attribute and call is held
against the official API of the stand-in's version (tensorrt_audit.py). The stand-ins themselves are
held against it too, so that they cannot offer what TensorRT doesn't.
"""

import ast
import ctypes
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from support import tensorrt_audit, tensorrt_wheels
from support.tensorrt_api import api_of_listing, api_of_names, dialect, parse_signature
from support.tensorrt_names import NAMES, VERSIONS, WITHOUT_WHEELS
from support.tensorrt_places import Rewriting, places

from segmentation_node.backends.tensorrt.versions import DIALECTS

TEST = Path(__file__).resolve().parents[1]
CORE = TEST / "core"
PINS = tensorrt_wheels.read_pins()
each_pin = pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.version)
TENSORRT_FILES = ("build.py", "versions.py")
HAVE_LATEST = PINS[-1].has_wheel


@pytest.fixture(scope="session")
def apis():
    """Version -> Api: of the bindings where there is a wheel, of the table elsewhere."""
    found = {
        pin.version: api_of_listing(tensorrt_wheels.read_listing(pin))
        for pin in PINS
        if pin.has_wheel
    }
    official = list(found.values())
    for version in VERSIONS:
        found.setdefault(version, api_of_names(version, official))
    return found


# The references: bindings and table.


def test_versions_are_the_pinned_and_those_without_wheels():
    assert [pin.version for pin in PINS] == [v for v in VERSIONS if v not in WITHOUT_WHEELS]


@each_pin
def test_table_agrees_with_the_bindings(apis, pin):
    if not pin.has_wheel:
        pytest.skip(tensorrt_wheels.missing(pin))
    api = apis[pin.version]
    assert api.source == "bindings"
    assert api.version == pin.version
    found = {key for key in NAMES if api.find(*key) is not None}
    assert found == {key for key, versions in NAMES.items() if pin.version in versions}


def test_what_8_2_offers_is_offered_by_8_6():
    """8.2.1's column was read in sources; NVIDIA removed nothing within 8."""
    assert {k for k, v in NAMES.items() if "8.2.1" in v} <= {
        k for k, v in NAMES.items() if "8.6.1" in v
    }


def test_signatures_are_read_as_pybind11_writes_them(apis):
    text = "(self: Runtime, pool: int, names: Dict[str, List[int]] = <A.B: 0>, path: str = None)"
    signature = parse_signature(text + " -> Tuple[bool, int]")
    assert list(signature.parameters) == ["pool", "names", "path"]
    assert signature.parameters["names"].annotation == "Dict[str, List[int]]"
    signature.bind(1, path="x")
    with pytest.raises(TypeError):
        signature.bind(path="x")
    latest = apis[VERSIONS[-1]]
    if latest.source == "bindings":  # and all of today's do parse
        for members in latest.members.values():
            for member in members.values():
                for line in member.signatures:
                    parse_signature(line)


# Our code, on the stand-ins.


@pytest.fixture(scope="session")
def report(apis, tmp_path_factory):
    """What tensorrt_audit.py noted while the tests of backend and builder ran."""
    folder = tmp_path_factory.mktemp("tensorrt_audit")
    tensorrt_audit.write_apis(folder / "apis.json", apis)
    tests = sorted(str(path) for path in CORE.glob("test_tensorrt*.py"))
    assert tests
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "support.tensorrt_audit",
        f"--confcutdir={CORE}",
    ]
    options += ["-k", "not test_the_command"]  # what processes do is not noted
    paths = [str(CORE.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "SEGMENTATION_TENSORRT_AUDIT": str(folder),
        },
        cwd=CORE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "report.json").read_text())


def name_at(place):
    return place.split(" ")[1]


def used_by_dialect(report):
    """Dialect -> "class.name" of everything that our code took from its stand-in."""
    used = {}
    for place, found in report["places"].items():
        for version, owner in (item.split(" ") for item in found if item != "-"):
            used.setdefault(dialect(version), set()).add(f"{owner}.{name_at(place)}")
    return used


def test_every_name_and_call_is_official(report):
    assert not report["problems"], "\n" + "\n".join(report["problems"])


def test_every_dialect_was_run(report):
    assert set(used_by_dialect(report)) == {dialect(version) for version in VERSIONS}


def test_each_dialect_runs_engines_its_own_way(report):
    for name, used in used_by_dialect(report).items():
        by_index = {"ICudaEngine.num_bindings", "IExecutionContext.execute_async_v2"}
        by_name = {"ICudaEngine.num_io_tensors", "IExecutionContext.execute_async_v3"}
        taken, other = (by_index, by_name) if name == dialect("8.2.1") else (by_name, by_index)
        assert taken <= used, name
        assert not other & used, name


@pytest.mark.parametrize("path", tensorrt_audit.audited_files(), ids=lambda path: path.name)
def test_no_name_of_tensorrt_was_left_out(apis, report, path):
    """A name that no test reached was not checked: the check is as good as those tests."""
    owners = {owner for owner, _ in NAMES}
    offered = {name for api in apis.values() for o in owners for name in api.members.get(o, ())}
    left = {
        place
        for place in set(places(path)) - set(report["places"])
        # The others only hand TensorRT's objects on; a misspelt name can be anywhere in these.
        if path.name in TENSORRT_FILES or name_at(place) in offered
    }
    assert not left, "\n" + "\n".join(sorted(left))


def test_what_some_versions_lack_was_decided_against_there(apis, report):
    """The function around such a name ran on those versions too, without reaching it."""
    scopes = {}
    for path in tensorrt_audit.audited_files():
        scopes.update({place: (path.name, scope) for place, scope in places(path).items()})
    ran = {}
    for place, found in report["places"].items():
        ran.setdefault(scopes[place], set()).update(dialect(item) for item in found if item != "-")
    checked = set()
    for place, found in report["places"].items():
        if "(" in place:
            continue  # hasattr asks
        for owner in {item.split(" ")[1] for item in found if item != "-"}:
            lacking = [v for v in VERSIONS if apis[v].find(owner, name_at(place)) is None]
            if scopes[place][1] in [way.__name__ for way in DIALECTS.values()]:
                continue  # the two ways to run engines: tested above
            for version in lacking:
                assert dialect(version) in ran[scopes[place]], f"{place}: {version}"
                checked.add(name_at(place))
    assert {"set_memory_pool_limit", "max_workspace_size", "FP16", "IProgressMonitor"} <= checked


# That the check finds what is wrong.


def stand_in(version):
    """A module, an engine, ... that offer any name and take any call."""

    def anything(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **keywords: None

    kind = type("Anything", (type,), {"__getattr__": anything})
    names = ["ICudaEngine", "IExecutionContext", "IBuilderConfig", "BuilderFlag"]
    classes = {name: kind(name, (), {"__getattr__": anything}) for name in names}
    module = types.ModuleType("tensorrt")
    vars(module).update(classes, __version__=version)
    module.Runtime = module.NoSuchName = lambda *arguments: None
    return module


def audited(apis, version, code):
    """Runs one line of code as our files are run; the audit."""
    trt = stand_in(version)
    audit = tensorrt_audit.Audit(apis)
    names = {"trt": trt, "ctypes": ctypes, "__tensorrt_audit__": audit}
    names.update(engine=trt.ICudaEngine(), context=trt.IExecutionContext())
    names.update(config=trt.IBuilderConfig())
    tree = Rewriting("line.py").visit(ast.parse("trt.__version__; " + code))
    exec(compile(ast.fix_missing_locations(tree), "line.py", "exec"), names)
    return audit


@pytest.mark.parametrize(
    ("version", "code", "problem"),
    [
        ("10.3.0", "engine.num_bindings", "ICudaEngine.num_bindings does not exist"),
        ("10.3.0", "config.max_workspace_size = 1", "max_workspace_size does not exist"),
        ("8.6.1", "trt.NoSuchName()", "tensorrt.NoSuchName"),
        ("11.4.0", "trt.BuilderFlag.FP16", "BuilderFlag.FP16 does not exist"),
        ("11.4.0", "hasattr(trt.BuilderFlag, 'FP16')", "only the stand-in offers BuilderFlag.FP16"),
        ("11.4.0", "hasattr(trt, 'IProgressMonitor')", "only the stand-in lacks trt.IProgress"),
        ("8.2.1", "engine.num_io_tensors", "ICudaEngine.num_io_tensors does not exist"),
        (
            "8.2.1",
            "engine.refittable",
            "ICudaEngine.refittable is not in test/support/tensorrt_names.py",
        ),
    ],
)
def test_an_absent_name_is_found(apis, version, code, problem):
    found = audited(apis, version, code).problems
    assert any(problem in text for text in found), found


@pytest.mark.skipif(not HAVE_LATEST, reason="NO SIGNATURES CHECKED: no bindings for this Python")
@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("engine.create_execution_context(1, 2)", "too many positional arguments"),
        ("context.set_tensor_address('image', ctypes.c_void_p(1))", "memory is c_void_p, not"),
        ("context.set_tensor_address('image', address=1)", "missing a required argument"),
        ("context.execute_async_v3()", "missing a required argument: 'stream_handle'"),
        ("engine.num_io_tensors()", "is a property, not a method"),
        ("engine.num_io_tensors = 2", "ICudaEngine.num_io_tensors is read-only"),
        ("trt.Runtime()", "missing a required argument: 'logger'"),
    ],
)
def test_a_wrong_call_is_found(apis, code, problem):
    found = audited(apis, "11.4.0", code).problems
    assert any(problem in text for text in found), found


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("8.2.1", "engine.num_bindings; config.max_workspace_size = 1"),
        ("8.6.1", "context.execute_async_v2(bindings=[1, 2], stream_handle=3)"),
        ("10.3.0", "trt.BuilderFlag.FP16; hasattr(trt.BuilderFlag, 'FP16')"),
        ("11.4.0", "context.set_tensor_address('image', 1); engine.create_execution_context()"),
    ],
)
def test_right_names_and_calls_pass(apis, version, code):
    assert audited(apis, version, code).problems == set()


def test_a_stand_in_may_not_offer_more(apis):
    class ICudaEngine:
        num_bindings = 2

        def get_tensor_name(self, number):
            """Officially `index`."""

    audit = tensorrt_audit.Audit(apis)
    audit.version = "11.4.0"
    audit.get(ICudaEngine(), "get_tensor_name", "here")
    assert any("num_bindings does not exist" in text for text in audit.problems)
    if HAVE_LATEST:
        assert any("takes ['number'], not" in text for text in audit.problems)


def test_our_subclass_has_to_take_what_tensorrt_gives(apis):
    class ILogger:
        def __init__(self):
            pass

    class Quiet(ILogger):
        def log(self, message):
            """Officially severity and message."""

    Quiet.__module__ = "segmentation_node.example"
    audit = tensorrt_audit.Audit(apis)
    audit.version = "11.4.0"
    audit.call(ILogger, "__init__", "here", (Quiet.__new__(Quiet),))
    if HAVE_LATEST:
        assert any("ILogger.log takes [2] arguments, ours 1" in text for text in audit.problems)


def test_a_place_that_nothing_reached_is_known(tmp_path):
    path = tmp_path / "example.py"
    path.write_text("def never(trt):\n    return trt.Runtime(hasattr(trt, 'Logger'))\n")
    found = places(path)
    assert {name_at(place) for place in found} == {"Runtime", "hasattr(Logger)"}
    assert set(found.values()) == {"never"}
