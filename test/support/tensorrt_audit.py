"""A pytest plugin that notes what our code takes from TensorRT, while its tests run on stand-ins.

`python -m pytest -p tensorrt_audit ...` with SEGMENTATION_TENSORRT_AUDIT naming a folder: the files
that are concerned are imported with every attribute and every call on one noted (the place in the
file, the class, the name) and held against the API of the stand-in's version, from the folder's
apis.json. report.json is left there:

    places      each place "file:line:column name" that was reached -> what was found there:
                "8.2.1 ICudaEngine", or "-" for an object that isn't TensorRT's
    problems    what the official API lacks or does not take
"""

import importlib.abc
import importlib.machinery
import inspect
import json
import os
import re
import sys
import types
from pathlib import Path

from support.tensorrt_api import Api, Member, parse_signature, stands_for
from support.tensorrt_names import VERSIONS
from support.tensorrt_places import rewritten

PACKAGE = Path(__file__).resolve().parents[2] / "segmentation_node"
FOLDER = os.environ.get("SEGMENTATION_TENSORRT_AUDIT", "")


def audited_files() -> list[Path]:
    """Those that hold TensorRT's objects; by convention they call its module `trt`."""
    candidates = [*PACKAGE.glob("*.py"), *PACKAGE.glob("backends/tensorrt/*.py")]
    return sorted(path for path in candidates if re.search(r"\btrt\b", path.read_text()))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


class Audit:
    """Notes and checks; its methods stand in the code where attributes and calls were."""

    def __init__(self, apis: dict[str, Api]) -> None:
        self.apis = apis
        self.classes = {name for api in apis.values() for name in api.members if name}
        self.version = VERSIONS[-1]  # of the stand-in that our code used last
        self.compared: set[tuple[type, str]] = set()
        self.places: dict[str, set[str]] = {}
        self.problems: set[str] = set()

    def get(self, value, name, place):
        self.note(value, name, place)
        return getattr(value, name)

    def store(self, value, name, place):
        """In front of `value.name = ...`."""
        if is_ours(type(value)):
            self.places.setdefault(place, set()).add("-")
            return value
        owner = self.note(value, name, place)
        if owner is not None:
            for api, member in self.members(owner, name, place):
                if member and member.kind == "property" and member.about != "writable":
                    self.problem(place, api, f"{owner}.{name} is {member.about}")
        return value

    def call(self, value, name, place, arguments=(), keywords=None):
        owner, keywords = self.note(value, name, place), keywords or {}
        if owner is not None:
            if isinstance(value, type):  # as in `trt.ILogger.__init__(self)`
                self.compare_overrides(type(arguments[0]), owner, place)
            own = arguments[1:] if isinstance(value, type) else arguments
            for api, member in self.members(owner, name, place):
                reason = member and api.refusal(owner, name, own, keywords)
                if reason:
                    self.problem(place, api, f"{owner or 'tensorrt'}.{name}: {reason}")
        return getattr(value, name)(*arguments, **keywords)

    def probe(self, function, place, value, name, *default):
        """hasattr and getattr: the name may be absent, but then it has to be so officially."""
        owner = self.note(value, name, place, must_exist=False)
        if owner is not None:
            has = hasattr(value, name)
            for api, member in self.members(owner, name, place):
                if has != (member is not None):
                    verb = "offers" if has else "lacks"
                    self.problem(place, api, f"only the stand-in {verb} {owner or 'trt'}.{name}")
        return hasattr(value, name) if function == "hasattr" else getattr(value, name, *default)

    def note(self, value, name, place, must_exist=True):
        """The class that the name is looked up in; None if it isn't TensorRT's."""
        owner = self.owner(value, name)
        found = "-" if owner is None else f"{self.version} {owner}"
        self.places.setdefault(place, set()).add(found)
        if owner is not None:
            for api, member in self.members(owner, name, place):
                if member is None and must_exist:
                    self.problem(place, api, f"{owner or 'tensorrt'}.{name} does not exist")
            self.compare_stand_in(value, owner)
        return owner

    def owner(self, value, name):
        """The official class behind a stand-in; "" for the module, None for what is ours."""
        if isinstance(value, types.ModuleType):
            if value.__name__ != "tensorrt":
                return None
            self.version = value.__version__
            return ""
        if name in getattr(value, "__dict__", {}) and not isinstance(value, type):
            return None  # an attribute that we gave to our subclass
        for base in value.__mro__ if isinstance(value, type) else type(value).__mro__:
            if is_ours(base) and name in vars(base):
                return None
            is_official = base.__name__ in self.classes and base.__module__ != "builtins"
            if is_official and not is_ours(base):
                return base.__name__
        return None

    def members(self, owner, name, place):
        """The name in every version that the stand-in stands for: (api, Member or None)."""
        for version in stands_for(self.version):
            api = self.apis[version]
            try:
                yield api, api.find(owner, name)
            except KeyError as error:
                self.problem(place, api, error.args[0])

    def compare_stand_in(self, value, owner) -> None:
        """Once for each class: it may offer nothing that the official one lacks."""
        kind = value if isinstance(value, type) else type(value)
        if not owner or (kind, self.version) in self.compared:
            return
        self.compared.add((kind, self.version))
        members = getattr(kind, "__members__", None) or dict(inspect.getmembers(kind))
        for name in members:
            overrides = (name in vars(base) for base in kind.__mro__ if is_ours(base))
            if name.startswith("_") or any(overrides):
                continue
            for api, member in self.members(owner, name, f"stand-in {owner}"):
                reason = stand_in_differs(members[name], member)
                if reason:
                    self.problem(f"stand-in {owner}", api, f"{name} {reason}")

    def compare_overrides(self, ours, owner, place) -> None:
        """TensorRT calls these methods of our subclass, with as many arguments as its own has."""
        for name, function in vars(ours).items():
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            count = len(inspect.signature(function).parameters) - 1
            for api, member in self.members(owner, name, place):
                counts = {
                    len(parse_signature(s).parameters) for s in getattr(member, "signatures", ())
                }
                if member is None or (counts and count not in counts):
                    text = f"{owner}.{name} takes {sorted(counts)} arguments, ours {count}"
                    self.problem(place, api, text)

    def problem(self, place, api, text) -> None:
        self.problems.add(f"{place}: TensorRT {api.version}: {text}")


def is_ours(kind: type) -> bool:
    return kind.__module__.startswith("segmentation_node")


def stand_in_differs(value, member: Member | None) -> str:
    """What a stand-in's attribute offers that the official one doesn't; empty if nothing."""
    if member is None:
        return "does not exist"
    if isinstance(value, property) or not inspect.isfunction(value):
        return "is a method" if member.kind == "method" else ""
    if member.kind == "property":
        return "is a property"
    own = list(inspect.signature(value).parameters.values())[1:]
    official = [list(parse_signature(text).parameters.values()) for text in member.signatures]
    if not official or any(takes_no_more(own, parameters) for parameters in official):
        return ""
    return f"takes {[p.name for p in own]}, not {' or '.join(member.signatures)}"


def takes_no_more(own: list, official: list) -> bool:
    """Same names in the same order, and what is left out has a default."""
    first, rest = official[: len(own)], official[len(own) :]
    return [p.name for p in own] == [p.name for p in first] and all(
        p.default is not p.empty for p in rest
    )


class Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, audit: Audit) -> None:
        super().__init__(name, path)
        self.audit = audit

    def get_code(self, fullname):
        return compile(rewritten(Path(self.path)), self.path, "exec", dont_inherit=True)

    def exec_module(self, module) -> None:
        module.__dict__["__tensorrt_audit__"] = self.audit
        super().exec_module(module)


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.files = {module_name(path): str(path) for path in audited_files()}

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self.files:
            return None
        loader = Loader(fullname, self.files[fullname], self.audit)
        return importlib.machinery.ModuleSpec(fullname, loader, origin=loader.path)


def write_apis(path: Path, apis: dict[str, Api]) -> None:
    path.write_text(json.dumps({v: [api.source, api.members] for v, api in apis.items()}))


def read_apis(path: Path) -> dict[str, Api]:
    return {
        version: Api(
            version,
            {
                owner: {
                    name: Member(kind, about, tuple(texts))
                    for name, (kind, about, texts) in of.items()
                }
                for owner, of in members.items()
            },
            source,
        )
        for version, (source, members) in json.loads(path.read_text()).items()
    }


def pytest_sessionfinish() -> None:
    report = {
        "places": {place: sorted(found) for place, found in AUDIT.places.items()},
        "problems": sorted(AUDIT.problems),
    }
    Path(FOLDER, "report.json").write_text(json.dumps(report, indent=1))


if FOLDER:
    AUDIT = Audit(read_apis(Path(FOLDER, "apis.json")))
    sys.meta_path.insert(0, Finder(AUDIT))
