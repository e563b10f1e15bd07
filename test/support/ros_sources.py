"""What Python sources offer, read without importing them: names, members, accepted keywords."""

import ast
import builtins
import functools
import importlib
import os
import re
from pathlib import Path
from typing import NamedTuple, Optional, Union

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("rclpy", "launch", "launch_ros")
NATIVE = ("rclpy.impl.implementation_singleton", "rclpy_implementation")


def sources_root() -> Path:
    """Folder of ROS checkouts, `<distribution>/<repository>`; never part of this repository."""
    return Path(os.environ.get("SEGMENTATION_ROS_SOURCES") or PROJECT.parent / "ros_sources")


class Module(NamedTuple):
    name: str


class Class(NamedTuple):
    module: str
    node: ast.ClassDef


class Function(NamedTuple):
    module: str
    node: ast.FunctionDef
    owner: Optional[Class] = None


class Expression(NamedTuple):
    """A name bound to a value, or annotated with a type, inferred only when somebody asks."""

    module: str
    node: ast.expr
    owner: Optional[Class] = None
    is_type: bool = False


class Message(NamedTuple):
    path: Path


class Native(NamedTuple):
    """Bound in C++, where only the spelling can be looked up."""


class Outside(NamedTuple):
    """Something of the standard library or of a package that isn't at hand."""

    module: str
    name: str


class Instance(NamedTuple):
    of: Union[Class, Message]


class Sources:
    def __init__(self, repositories: Path, own: Path = PROJECT) -> None:
        self.roots = {name: root for name in PACKAGES for root in find_package(repositories, name)}
        self.roots["segmentation_node"] = own / "segmentation_node"
        self.messages = {
            (path.parent.parent.name + ".msg", path.stem): path
            for path in repositories.glob("*/*/msg/*.msg")
        }
        native = (path.read_text() for path in repositories.glob("rclpy/rclpy/src/**/*.?pp"))
        self.native_names = set(re.findall(r'"(\w+)"', "\n".join(native)))
        self.scopes: dict[str, dict] = {}

    def covers(self, module: str) -> bool:
        return module.split(".")[0] in self.roots or any(m == module for m, _ in self.messages)

    def file(self, module: str) -> Optional[Path]:
        package, *rest = module.split(".")
        base = self.roots[package].joinpath(*rest)
        candidates = (base / "__init__.py", base.with_suffix(".py"))
        return next((path for path in candidates if path.is_file()), None)

    def scope(self, module: str) -> dict:
        """Top-level names of a module, each with the statement that binds it."""
        if module not in self.scopes:
            path = self.file(module)
            package = module if path and path.name == "__init__.py" else parent(module)
            self.add(module, package, path.read_text() if path else "")
        return self.scopes[module]

    def add(self, module: str, package: str, text: str) -> None:
        self.scopes[module] = {}
        for statement in outer_statements(ast.parse(text).body):
            self.scopes[module].update(bindings(statement, module, package))

    def lookup(self, module: str, name: str):
        """The symbol behind `from module import name`; None where there is none."""
        if (module, name) == NATIVE:
            return Native()
        if (module, name) in self.messages:
            return Message(self.messages[module, name])
        if module not in self.scopes and module.split(".")[0] not in self.roots:
            return Outside(module, name)
        bound = self.scope(module).get(name)
        if isinstance(bound, Outside) and (bound.module, bound.name) != (module, name):
            return self.lookup(bound.module, bound.name)
        if bound is None and module.split(".")[0] in self.roots and self.file(f"{module}.{name}"):
            return Module(module + "." + name)
        return bound

    def field(self, symbol: Message, name: str) -> Optional[Instance]:
        """What a field of a message holds, where that is a message whose file is here."""
        package, _, kind = message_fields(symbol.path).get(name, "").rpartition("/")
        package = package or symbol.path.parent.parent.name
        path = self.messages.get((package + ".msg", kind))
        return Instance(Message(path)) if path else None

    def lineage(self, symbol: Class, resolve) -> list:
        """The class and what it derives from, nearest first."""
        found = [symbol]
        for base in symbol.node.bases:
            parent = resolve(base, symbol.module)
            found += self.lineage(parent, resolve) if isinstance(parent, Class) else [parent]
        return found

    def members(self, symbol, resolve) -> Optional[dict]:
        """Members by name; None where a base is unknown, so that nothing can be called missing."""
        if isinstance(symbol, Message):
            return dict.fromkeys(message_fields(symbol.path).keys() | set(dir(object)))
        if isinstance(symbol, Native):
            return dict.fromkeys(self.native_names)
        found: dict = dict.fromkeys(dir(type))
        for part in reversed(self.lineage(symbol, resolve)):
            names = class_members(part) if isinstance(part, Class) else outside_members(part)
            if names is None:
                return None
            found.update(names)
        return found


def parent(module: str) -> str:
    return module.rpartition(".")[0]


def find_package(repositories: Path, name: str) -> list[Path]:
    return [path.parent for path in repositories.glob(f"*/{name}/{name}/__init__.py")]


def outer_statements(body: list) -> list:
    """Statements of a module, also those under a top-level if or try."""
    found = []
    for statement in body:
        found.append(statement)
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            for field in ("body", "orelse", "finalbody", "handlers"):
                found += outer_statements(getattr(statement, field, []))
        if isinstance(statement, ast.ExceptHandler):
            found += outer_statements(statement.body)
    return found


def bindings(statement, module: str, package: str) -> dict:
    if isinstance(statement, ast.ClassDef):
        return {statement.name: Class(module, statement)}
    if isinstance(statement, ast.FunctionDef):
        return {statement.name: Function(module, statement)}
    if isinstance(statement, ast.ImportFrom):
        origin = import_origin(statement, package)
        return {name.asname or name.name: Outside(origin, name.name) for name in statement.names}
    if isinstance(statement, ast.Import):
        return dict(map(imported, statement.names))
    names = [target.id for target in assigned(statement) if isinstance(target, ast.Name)]
    return dict.fromkeys(names, Expression(module, statement.value)) if names else {}


def import_origin(statement: ast.ImportFrom, package: str) -> str:
    if not statement.level:
        return statement.module or ""
    parts = package.split(".")[: len(package.split(".")) - statement.level + 1]
    return ".".join(parts + ([statement.module] if statement.module else []))


def imported(alias: ast.alias) -> tuple:
    first = alias.name.split(".")[0]
    return (alias.asname or first, Module(alias.name if alias.asname else first))


def assigned(statement) -> list:
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []


def bound_value(statement, symbol: Class, types: dict) -> Expression:
    """What an assignment in a class says of its target; a parameter's annotation counts."""
    annotation = getattr(statement, "annotation", None)
    if annotation is None and isinstance(statement.value, ast.Name):
        annotation = types.get(statement.value.id)
    if annotation is not None:
        return Expression(symbol.module, annotation, symbol, is_type=True)
    return Expression(symbol.module, statement.value, symbol)


@functools.lru_cache(maxsize=None)
def class_members(symbol: Class) -> dict:
    found: dict = {}
    for statement in symbol.node.body:
        if isinstance(statement, ast.FunctionDef):
            for name, value in self_attributes(statement, symbol):
                # None is a placeholder: the assignment elsewhere tells the type.
                if name not in found or not is_none(value.node):
                    found[name] = value
    for statement in symbol.node.body:
        if isinstance(statement, ast.FunctionDef):
            found[statement.name] = Function(symbol.module, statement, symbol)
        elif isinstance(statement, ast.ClassDef):
            found[statement.name] = Class(symbol.module, statement)
        for target in assigned(statement):
            if isinstance(target, ast.Name):
                found[target.id] = bound_value(statement, symbol, {})
    return found


def self_attributes(method: ast.FunctionDef, owner: Class) -> list:
    types = {arg.arg: arg.annotation for arg in method.args.args + method.args.kwonlyargs}
    return [
        (target.attr, bound_value(statement, owner, types))
        for statement in ast.walk(method)
        for target in assigned(statement)
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
    ]


def is_none(node) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def outside_members(symbol) -> Optional[dict]:
    if not isinstance(symbol, Outside):
        return None
    try:
        module = importlib.import_module(symbol.module) if symbol.module else builtins
        return dict.fromkeys(dir(getattr(module, symbol.name)))
    except (ImportError, AttributeError):
        return None


def message_fields(path: Path) -> dict[str, str]:
    """Fields and constants of an interface file, each with its type."""
    found = re.findall(r"^(\w[\w/\[\]<=]*)\s+(\w+)", path.read_text(), re.MULTILINE)
    return {name: kind for kind, name in found}
