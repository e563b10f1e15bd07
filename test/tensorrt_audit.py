"""A pytest plugin that notes what our code takes from TensorRT, while its tests run on stand-ins.

`python -m pytest -p tensorrt_audit ...` with SEGMENTATION_TENSORRT_AUDIT naming a folder: the files
that are concerned are imported with every attribute and every call on one noted (the place in the
file, the class, the name) and held against the API of the stand-in's version, from the folder's
apis.json. report.json is left there:

    sites       each place "file:line:column name" -> what was found there: "8.2.1 ICudaEngine",
                or "-" for an object that isn't TensorRT's
    problems    what the official API lacks or does not take
"""

import ast
import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
from pathlib import Path

from tensorrt_api import Api, Member, closest

PACKAGE = Path(__file__).resolve().parent.parent / "segmentation_node"
FOLDER = os.environ.get("SEGMENTATION_TENSORRT_AUDIT", "")
PROBES = ("hasattr", "getattr")


def audited_files() -> list[Path]:
    """Those that hold TensorRT's objects; by convention they call its module `trt`."""
    candidates = [*PACKAGE.glob("*.py"), *PACKAGE.glob("backends/*.py")]
    return sorted(path for path in candidates if re.search(r"\btrt\b", path.read_text()))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


class Audit:
    """Notes and checks; its methods stand in the code where attributes and calls were."""

    def __init__(self, apis: dict[str, Api]) -> None:
        self.apis = apis
        self.classes = {name for api in apis.values() for name in api.members if name}
        self.sites: dict[str, set[str]] = {}
        self.problems: set[str] = set()

    def get(self, value, name, site, /):
        self.note(value, name, site)
        return getattr(value, name)

    def store(self, value, name, site, /):
        """In front of `value.name = ...`."""
        owner = self.note(value, name, site)
        if owner is not None:
            member = self.find(owner, name, site)
            if member and member.kind == "property" and member.about != "writable":
                self.problem(site, f"{owner}.{name} is {member.about}")
        return value

    def call(self, value, name, site, /, *arguments, **keywords):
        owner = self.note(value, name, site)
        if owner is not None:
            # Of `trt.ILogger.__init__(self)` the first argument is self.
            own = arguments[1:] if isinstance(value, type) else arguments
            reason = self.api().refusal(owner, name, own, keywords)
            if reason:
                self.problem(site, f"{owner or 'tensorrt'}.{name}: {reason}")
        return getattr(value, name)(*arguments, **keywords)

    def probe(self, function, site, /, value, name, *default):
        """hasattr and getattr: the name may be absent, but then it has to be so officially."""
        owner = self.owner(value, name)
        if owner is not None:
            self.note(value, name, site, must_exist=False)
            has = hasattr(value, name)
            if has != (self.find(owner, name, site) is not None):
                offers = "offers" if has else "lacks"
                self.problem(site, f"the stand-in {offers} {owner}.{name}, TensorRT does not")
        return hasattr(value, name) if function == "hasattr" else getattr(value, name, *default)

    def note(self, value, name, site, must_exist=True):
        """The class that the name is looked up in; None if it isn't TensorRT's."""
        owner = self.owner(value, name)
        found = "-" if owner is None else f"{self.stand_in()} {owner}"
        self.sites.setdefault(site, set()).add(found)
        if owner is not None and must_exist and self.find(owner, name, site) is None:
            self.problem(site, f"{owner or 'tensorrt'}.{name} does not exist")
        return owner

    def owner(self, value, name):
        """The official class behind a stand-in; "" for the module, None for what is ours."""
        if value is sys.modules.get("tensorrt"):
            return ""
        if name in getattr(value, "__dict__", {}) and not isinstance(value, type):
            return None  # an attribute that we gave to our subclass
        for base in value.__mro__ if isinstance(value, type) else type(value).__mro__:
            ours = base.__module__.startswith("segmentation_node")
            if ours and name in vars(base):
                return None
            if not ours and base.__name__ in self.classes and base.__module__ != "builtins":
                return base.__name__
        return None

    def find(self, owner, name, site) -> Member | None:
        try:
            return self.api().find(owner, name)
        except KeyError as error:
            self.problem(site, str(error.args[0]))
            return Member()

    def stand_in(self) -> str:
        return str(sys.modules["tensorrt"].__version__)

    def api(self) -> Api:
        return closest(self.stand_in(), self.apis)

    def problem(self, site, text) -> None:
        self.problems.add(f"{site}: TensorRT {self.api().version}: {text}")


class Rewriting(ast.NodeTransformer):
    """Puts calls of the audit in the place of attributes and calls of attributes."""

    def __init__(self, file: str) -> None:
        self.file = file

    def site(self, node, name: str) -> ast.Constant:
        return ast.Constant(f"{self.file}:{node.end_lineno}:{node.end_col_offset} {name}")

    def audited(self, method: str, arguments: list, keywords: list) -> ast.Call:
        audit = ast.Name("__tensorrt_audit__", ast.Load())
        return ast.Call(ast.Attribute(audit, method, ast.Load()), arguments, keywords)

    def visit_Attribute(self, node):
        site = self.site(node, node.attr)
        self.generic_visit(node)
        if is_mangled(node.attr) or isinstance(node.ctx, ast.Del):
            return node
        arguments = [node.value, ast.Constant(node.attr), site]
        if isinstance(node.ctx, ast.Load):
            return self.audited("get", arguments, [])
        node.value = self.audited("store", arguments, [])
        return node

    def visit_Call(self, node):
        if isinstance(node.func, ast.Attribute) and not is_mangled(node.func.attr):
            site = self.site(node.func, node.func.attr)
            owner = self.visit(node.func.value)
            arguments = [self.visit(item) for item in node.args]
            keywords = [self.visit(item) for item in node.keywords]
            first = [owner, ast.Constant(node.func.attr), site]
            return self.audited("call", first + arguments, keywords)
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in PROBES:
            name = getattr(node.args[1], "value", "?")
            first = [ast.Constant(node.func.id), self.site(node, f"{node.func.id}({name})")]
            return self.audited("probe", first + node.args, [])
        return node


def is_mangled(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def attribute_sites(path: Path) -> set[str]:
    """Every place that an audited run could note, read from the file alone."""
    tree = Rewriting(path.name).visit(ast.parse(path.read_text()))
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    pattern = re.escape(path.name) + r":\d+:\d+ .+"
    return {t for t in texts if isinstance(t, str) and re.fullmatch(pattern, t)}


class Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, audit: Audit) -> None:
        super().__init__(name, path)
        self.audit = audit

    def get_code(self, fullname):
        tree = Rewriting(Path(self.path).name).visit(ast.parse(self.get_data(self.path)))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

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


def read_apis(path: Path) -> dict[str, Api]:
    return {
        version: Api(
            version,
            {o: {n: Member(*m) for n, m in of.items()} for o, of in members.items()},
            source,
        )
        for version, (source, members) in json.loads(path.read_text()).items()
    }


def pytest_sessionfinish() -> None:
    report = {
        "sites": {site: sorted(found) for site, found in AUDIT.sites.items()},
        "problems": sorted(AUDIT.problems),
    }
    Path(FOLDER, "report.json").write_text(json.dumps(report, indent=1))


if FOLDER:
    AUDIT = Audit(read_apis(Path(FOLDER, "apis.json")))
    sys.meta_path.insert(0, Finder(AUDIT))
