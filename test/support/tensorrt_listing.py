"""Prints as JSON what the importable `tensorrt` offers: run by tensorrt_wheels.py.

{"": {"Runtime": ["class", []]}, "ICudaEngine": {"num_io_tensors": ["property", []]}}: by class (""
is the module) each name with its kind and the signatures that pybind11 wrote down.
"""

import json
import re

import tensorrt


def signatures(documentation):
    """`(self: Runtime, logger: ILogger) -> None` of each overload."""
    lines = [re.sub(r"^\d+\. ", "", line) for line in documentation.splitlines()]
    found = [re.match(r"\w*(\(.*\) -> .*)", line) for line in lines]
    return [match.group(1) for match in found if match and "*args" not in match.group(1)]


def describe(owner, name):
    value = getattr(owner, name)
    places = [base.__dict__[name] for base in getattr(owner, "__mro__", ()) if name in vars(base)]
    if places and isinstance(places[0], property):
        return ["writable property" if places[0].fset else "property", []]
    if isinstance(value, type):
        return ["class", []]
    if name not in getattr(owner, "__members__", ()) and callable(value):
        return ["method", signatures(value.__doc__ or "")]
    return ["value", []]


def listing(owner):
    return {name: describe(owner, name) for name in dir(owner) if is_public(name)}


def is_public(name):
    return not name.startswith("_") or name in ("__init__", "__version__")


members = {"": listing(tensorrt)}
for name, value in list(vars(tensorrt).items()):
    if isinstance(value, type):
        members[name] = listing(value)
        # Severity is inside ILogger.
        members.update({n: listing(v) for n, v in vars(value).items() if isinstance(v, type)})
print(json.dumps(members))
