"""What an expression in Python sources is, as far as names and annotations tell."""

import ast
from typing import Optional

from support.ros_sources import (
    Class,
    Expression,
    Function,
    Instance,
    Message,
    Module,
    Native,
    Outside,
    Sources,
    class_members,
    message_fields,
)

MAX_DEPTH = 12
# What these names hold in our files, where no annotation says so.
NODE_NAMES = ("node", "_node")
NODE = ("segmentation_node.ros.node", "SegmentationNode")


class Inference:
    """Types of expressions, as far as names, annotations and constructors tell them."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.depth = 0

    def of(self, node, local: dict, module: str):
        """What the expression is: a symbol, an instance, or None where that is unknown."""
        self.depth += 1
        try:
            return None if self.depth > MAX_DEPTH else self.infer(node, local, module)
        finally:
            self.depth -= 1

    def infer(self, node, local: dict, module: str):
        if isinstance(node, ast.Name):
            known = node.id in local
            return self.settle(local[node.id] if known else self.outer(module, node.id))
        if isinstance(node, ast.Attribute):
            return self.member(self.of(node.value, local, module), node.attr)
        if isinstance(node, ast.Call):
            return self.result(self.of(node.func, local, module), local)
        return None

    def outer(self, module: str, name: str):
        found = self.sources.lookup(module, name)
        return Outside("builtins", name) if found is None else found

    def settle(self, found):
        """The type behind a name that is bound to an expression."""
        if not isinstance(found, Expression):
            return found
        if found.is_type:
            return self.annotated(found.node, found.module)
        local = {"self": Instance(found.owner)} if found.owner else {}
        return self.of(found.node, local, found.module)

    def annotated(self, node, module: str):
        found = self.resolve(node, module)
        return Instance(found) if isinstance(found, (Class, Message)) else None

    def resolve(self, node, module: str):
        """A base class or an annotation; quotes and Optional are looked through."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.Subscript):
            optional = ast.unparse(node.value).rpartition(".")[2] == "Optional"
            return self.resolve(node.slice if optional else node.value, module)
        return self.of(node, {}, module)

    def members(self, symbol) -> Optional[dict]:
        return self.sources.members(symbol, self.resolve)

    def lineage(self, symbol: Class) -> list:
        return self.sources.lineage(symbol, self.resolve)

    def member(self, owner, name: str):
        if isinstance(owner, Module):
            return self.settle(self.sources.lookup(owner.name, name))
        if isinstance(owner, Native):
            return owner
        symbol = getattr(owner, "of", owner)
        if isinstance(symbol, Message):
            return self.sources.field(symbol, name)
        if not isinstance(symbol, Class) or name == "__init__":
            return symbol
        found = (self.members(symbol) or {}).get(name)
        if isinstance(found, Function) and "property" in decorators(found.node):
            return self.returned(found)
        return self.settle(found) or self.named(name)

    def named(self, name: str):
        """The node, where a name promises one; otherwise None."""
        found = self.sources.lookup(*NODE)
        return Instance(found) if name in NODE_NAMES and isinstance(found, Class) else None

    def result(self, callee, local: dict):
        if isinstance(callee, (Class, Message)):
            return Instance(callee)
        if isinstance(callee, Function):
            return self.returned(callee)
        if callee == Outside("builtins", "super") and isinstance(local.get("self"), Instance):
            parents = self.lineage(local["self"].of)[1:]
            return next((Instance(part) for part in parents if isinstance(part, Class)), None)
        return None

    def returned(self, function: Function):
        if function.node.returns is not None:
            return self.annotated(function.node.returns, function.module)
        local = {"self": Instance(function.owner)} if function.owner else {}
        returns = [n for n in ast.walk(function.node) if isinstance(n, ast.Return) and n.value]
        return self.of(returns[-1].value, local, function.module) if returns else None

    def accepts(self, callee, keyword: str) -> bool:
        if isinstance(callee, Message):
            return keyword in message_fields(callee.path)
        if isinstance(callee, Function):
            return keyword in parameters(callee.node) or callee.node.args.kwarg is not None
        return not isinstance(callee, Class) or self.constructor_accepts(callee, keyword)

    def constructor_accepts(self, symbol, keyword: str) -> bool:
        """Asks the bases where a constructor is inherited or hands its other keywords on."""
        if not isinstance(symbol, Class):
            return symbol is None or symbol.name not in ("object", "NamedTuple")
        members = class_members(symbol)
        makers = [members[name].node for name in ("__new__", "__init__") if name in members]
        if makers:
            if keyword in set().union(slots(symbol.node), *map(parameters, makers)):
                return True
            if slots(symbol.node) or not any(maker.args.kwarg for maker in makers):
                return False
        elif has_fields(symbol.node) and keyword in members:
            return True
        bases = [self.resolve(base, symbol.module) for base in symbol.node.bases]
        return any(self.constructor_accepts(base, keyword) for base in bases)


def decorators(node: ast.FunctionDef) -> set[str]:
    return {ast.unparse(decorator) for decorator in node.decorator_list}


def parameters(node: ast.FunctionDef) -> set[str]:
    return {arg.arg for arg in node.args.args + node.args.kwonlyargs}


def has_fields(node: ast.ClassDef) -> bool:
    bases = {ast.unparse(base) for base in node.bases}
    return "NamedTuple" in bases or any("dataclass" in name for name in decorators(node))


def slots(node: ast.ClassDef) -> set[str]:
    """Keywords of the classes that take one for each slot."""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__slots__":
            return {name.lstrip("_") for name in ast.literal_eval(statement.value)}
    return set()
