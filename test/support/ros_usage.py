"""Holds the ROS names and keywords that a source file uses against a distribution's sources."""

import ast

from support.ros_inference import Inference
from support.ros_sources import (
    PACKAGES,
    Class,
    Instance,
    Message,
    Module,
    Native,
    Outside,
    Sources,
    bindings,
    import_origin,
    parent,
)

IMPORT_ERRORS = ("ImportError", "ModuleNotFoundError")


class Usage(ast.NodeVisitor):
    """Walks one file of ours; `problems` are the names that the distribution lacks."""

    def __init__(self, sources: Sources, module: str, source: str) -> None:
        self.sources = sources
        self.inference = Inference(sources)
        self.module = module
        self.local: dict = {}
        self.checked: set[str] = set()
        self.problems: list[str] = []
        self.sources.add(module, parent(module), source)
        self.visit(ast.parse(source))

    def check(self, exists: bool, node, what: str) -> None:
        self.checked.add(what)
        if not exists:
            self.problems.append(f"{self.module}:{node.lineno}: {what}")

    def infer(self, node):
        return self.inference.of(node, self.local, self.module)

    def missing_imports(self, statement) -> list[str]:
        if isinstance(statement, ast.Import):
            names = [(*alias.name.rpartition(".")[::2],) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            origin = import_origin(statement, parent(self.module))
            names = [(origin, alias.name) for alias in statement.names]
        else:
            return []
        names = [(module, name) for module, name in names if self.sources.covers(module or name)]
        self.checked.update(".".join(pair).lstrip(".") for pair in names)
        return [".".join(pair) for pair in names if pair[0] and self.sources.lookup(*pair) is None]

    def visit_Import(self, node) -> None:
        for name in self.missing_imports(node):
            self.check(False, node, name)
        self.local.update(bindings(node, self.module, parent(self.module)))
        for name, found in self.local.items():
            if isinstance(found, Outside):
                self.local[name] = self.sources.lookup(found.module, found.name)

    visit_ImportFrom = visit_Import

    def visit_Try(self, node) -> None:
        """Alternatives: the first branch whose imports this distribution has is the one it runs."""
        caught = [ast.unparse(handler.type) for handler in node.handlers if handler.type]
        if not any(name in text for text in caught for name in IMPORT_ERRORS):
            self.generic_visit(node)
            return
        branches = [node.body] + [handler.body for handler in node.handlers]
        found = [b for b in branches if not any(self.missing_imports(s) for s in b)]
        for statement in (found or branches)[0] + node.orelse + node.finalbody:
            self.visit(statement)

    def visit_ClassDef(self, node) -> None:
        self.local[node.name] = Class(self.module, node)
        self.nested(node, {"self": Instance(Class(self.module, node))})

    def visit_FunctionDef(self, node) -> None:
        arguments = node.args.args + node.args.kwonlyargs
        types = {arg.arg: self.annotation(arg) for arg in arguments if arg.arg != "self"}
        self.nested(node, types)

    def visit_Lambda(self, node) -> None:
        self.nested(node, {arg.arg: None for arg in node.args.args})

    def annotation(self, arg):
        known = arg.annotation and self.inference.annotated(arg.annotation, self.module)
        return known or self.inference.named(arg.arg)

    def nested(self, node, names: dict) -> None:
        outer, self.local = self.local, {**self.local, **names}
        self.generic_visit(node)
        self.local = outer

    def visit_Assign(self, node) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.local[target.id] = self.infer(node.value)

    def visit_For(self, node) -> None:
        for name in ast.walk(node.target):
            if isinstance(name, ast.Name):
                self.local[name.id] = None
        self.generic_visit(node)

    def visit_ListComp(self, node) -> None:
        targets = [name for loop in node.generators for name in ast.walk(loop.target)]
        self.nested(node, {name.id: None for name in targets if isinstance(name, ast.Name)})

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp

    def visit_Attribute(self, node) -> None:
        self.generic_visit(node)
        owner = self.infer(node.value)
        symbol = getattr(owner, "of", owner)
        if isinstance(symbol, Module) and self.sources.covers(symbol.name):
            exists = self.sources.lookup(symbol.name, node.attr) is not None
            self.check(exists, node, f"{symbol.name}.{node.attr}")
        elif self.belongs_to_ros(symbol):
            members = self.inference.members(symbol)
            if members is not None:
                self.check(node.attr in members, node, f"{label(symbol)}.{node.attr}")

    def visit_Call(self, node) -> None:
        self.generic_visit(node)
        callee = self.infer(node.func)
        if self.is_ros(callee):
            for keyword in filter(None, (k.arg for k in node.keywords)):
                accepted = self.inference.accepts(callee, keyword)
                self.check(accepted, node, f"{label(callee)}({keyword}=)")

    def is_ros(self, symbol) -> bool:
        if isinstance(symbol, (Message, Native)):
            return True
        return getattr(symbol, "module", "").split(".")[0] in PACKAGES

    def belongs_to_ros(self, symbol) -> bool:
        if isinstance(symbol, Class):
            return any(self.is_ros(part) for part in self.inference.lineage(symbol))
        return self.is_ros(symbol)


def label(symbol) -> str:
    if isinstance(symbol, Message):
        return symbol.path.stem
    return getattr(getattr(symbol, "node", None), "name", "rclpy (C++)")
