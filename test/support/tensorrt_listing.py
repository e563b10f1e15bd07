"""Prints as JSON what the importable `tensorrt` offers: run by tensorrt_wheels.py.

{"version": ..., "members": {"": top level, "ICudaEngine": {"num_layers": ["property", "", []]}}}
A member is its kind, what to know about it, and the signatures that pybind11 wrote down.
"""

import json
import re

import tensorrt


def signatures(documentation):
    """`(self: Runtime, ...) -> ICudaEngine` of each overload, without the modules' names."""
    text = re.sub(
        r"\b(tensorrt_bindings\.tensorrt|typing|typing_extensions|collections\.abc)\.",
        "",
        documentation,
    )
    lines = [re.sub(r"^\d+\. ", "", line) for line in text.splitlines()]
    found = [re.match(r"\w*(\(.*\) -> .*)", line) for line in lines]
    return [match.group(1) for match in found if match and "*args" not in match.group(1)]


def describe(owner, name):
    value = getattr(owner, name)
    places = [base.__dict__[name] for base in getattr(owner, "__mro__", ()) if name in vars(base)]
    if places and isinstance(places[0], property):
        getter = places[0].fget
        kinds = "writable" if places[0].fset else "read-only"
        return ["property", kinds, signatures(getattr(getter, "__doc__", None) or "")]
    if isinstance(value, type):
        return ["class", [base.__name__ for base in value.__mro__[1:]], []]
    if hasattr(value, "__members__") or hasattr(type(value), "__members__"):
        return ["member", int(value), []]
    if callable(value):
        return ["method", "", signatures(value.__doc__ or "")]
    return ["value", "", []]


def listing(owner):
    return {name: describe(owner, name) for name in dir(owner) if is_public(name)}


def is_public(name):
    return not name.startswith("_") or name in ("__init__", "__len__", "__getitem__", "__version__")


members = {"": listing(tensorrt)}
for name, value in list(vars(tensorrt).items()):
    if isinstance(value, type):
        members[name] = listing(value)
        # Severity is inside ILogger.
        members.update({n: listing(v) for n, v in vars(value).items() if isinstance(v, type)})
print(json.dumps({"version": tensorrt.__version__, "members": members}))
