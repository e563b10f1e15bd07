"""Puts an audit in the place of attributes and of calls on them, in a file's syntax tree.

`engine.num_layers` becomes `__tensorrt_audit__.get(engine, "num_layers", place)`; a call, an
assignment, hasattr and getattr likewise. A place is "file:line:column name".
"""

import ast
import re
from pathlib import Path

PROBES = ("hasattr", "getattr")


class Rewriting(ast.NodeTransformer):
    """Puts calls of the audit in the place of attributes and calls of attributes."""

    def __init__(self, file: str) -> None:
        self.file = file

    def place(self, node, name: str) -> ast.Constant:
        return ast.Constant(f"{self.file}:{node.end_lineno}:{node.end_col_offset} {name}")

    def audited(self, method: str, arguments: list) -> ast.Call:
        audit = ast.Name("__tensorrt_audit__", ast.Load())
        return ast.Call(ast.Attribute(audit, method, ast.Load()), arguments, [])

    def visit_Attribute(self, node):
        place = self.place(node, node.attr)
        self.generic_visit(node)
        if is_mangled(node.attr) or isinstance(node.ctx, ast.Del):
            return node
        arguments = [node.value, ast.Constant(node.attr), place]
        if isinstance(node.ctx, ast.Load):
            return self.audited("get", arguments)
        node.value = self.audited("store", arguments)
        return node

    def visit_Call(self, node):
        if isinstance(node.func, ast.Attribute) and not is_mangled(node.func.attr):
            place = self.place(node.func, node.func.attr)
            owner = self.visit(node.func.value)
            arguments = ast.Tuple([self.visit(item) for item in node.args], ast.Load())
            keywords = ast.Dict(
                [item.arg and ast.Constant(item.arg) for item in node.keywords],
                [self.visit(item.value) for item in node.keywords],
            )
            first = [owner, ast.Constant(node.func.attr), place]
            return self.audited("call", [*first, arguments, keywords])
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in PROBES:
            name = getattr(node.args[1], "value", "?")
            first = [ast.Constant(node.func.id), self.place(node, f"{node.func.id}({name})")]
            return self.audited("probe", first + node.args)
        return node


def is_mangled(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")


def places(path: Path) -> dict[str, str]:
    """Every place of a file that an audit could note -> the file's function or class around it."""
    pattern = re.escape(path.name) + r":\d+:\d+ .+"
    found = {}
    for statement in ast.parse(path.read_text()).body:
        scope = getattr(statement, "name", "")
        for node in ast.walk(Rewriting(path.name).visit(statement)):
            text = getattr(node, "value", None)
            if isinstance(text, str) and re.fullmatch(pattern, text):
                found[text] = scope
    return found


def rewritten(path: Path) -> ast.Module:
    """The syntax tree of a file, ready to be compiled."""
    return ast.fix_missing_locations(Rewriting(path.name).visit(ast.parse(path.read_text())))
