"""What each version of TensorRT's Python API offers, to hold names and calls against.

From the official bindings where this Python has a wheel of them, else from tensorrt_names.py.
"""

import inspect
import keyword
import re
from typing import NamedTuple, Optional

from support.tensorrt_names import NAMES, VERSIONS

BRACKETS = {"(": 1, "[": 1, "{": 1, "<": 1, ")": -1, "]": -1, "}": -1, ">": -1}


class Member(NamedTuple):
    """A name of a class, or of the module; `signatures` is empty where they are not known."""

    kind: str = "unknown"  # class, method, property, member (of an enumeration), value
    about: object = ""
    signatures: tuple[str, ...] = ()


class Api:
    """One version. `members` maps class ("" is the module) to name to Member."""

    def __init__(self, version: str, members: dict[str, dict[str, Member]], source: str) -> None:
        self.version = version
        self.members = members
        self.source = source

    def find(self, owner: str, name: str) -> Optional[Member]:
        """The member, or None where this version lacks it. KeyError: not known either way."""
        if self.source == "names" and (owner, name) not in NAMES:
            raise KeyError(
                f"{owner or 'tensorrt'}.{name} is not in test/support/tensorrt_names.py: add it"
            )
        return self.members.get(owner, {}).get(name)

    def refusal(self, owner: str, name: str, arguments: tuple, keywords: dict) -> str:
        """Why this version does not take such a call; empty if it does."""
        member = self.find(owner, name)
        if member is None:
            return "does not exist"
        if member.kind == "class":  # calling it makes one
            return self.refusal(name, "__init__", arguments, keywords)
        if member.kind not in ("method", "unknown"):
            return f"is a {member.kind}, not a method"
        reasons = [why_not(text, arguments, keywords) for text in member.signatures]
        return "" if "" in reasons or not reasons else "; or ".join(reasons)


def api_of_listing(listing: dict) -> Api:
    """Of what tensorrt_listing.py printed."""
    members = {
        owner: {
            name: Member(kind, about, tuple(texts)) for name, (kind, about, texts) in of.items()
        }
        for owner, of in listing["members"].items()
    }
    return Api(listing["version"], members, "bindings")


def api_of_names(version: str, others: list[Api]) -> Api:
    """Of the table; kinds and signatures are those of the oldest other version with the name."""
    members: dict[str, dict[str, Member]] = {}
    for (owner, name), offered in NAMES.items():
        if version in offered:
            found = (api.members.get(owner, {}).get(name) for api in others)
            member = next(filter(None, found), Member())
            members.setdefault(owner, {})[name] = member
    return Api(version, members, "names")


def stands_for(version: str) -> list[str]:
    """The known versions of the same dialect: 8.2; 8.5 and 8.6; 10; 11."""
    return [known for known in VERSIONS if dialect(known) == dialect(version)]


def dialect(version: str) -> str:
    major, minor = (int(part) for part in version.split(".")[:2])
    return f"{major} from 8.5" if (major, minor) >= (8, 5) and major == 8 else str(major)


def why_not(text: str, arguments: tuple, keywords: dict) -> str:
    """Why a signature does not take the arguments (`self` not among them); empty if it does."""
    signature = parse_signature(text)
    try:
        bound = signature.bind(*arguments, **keywords)
    except TypeError as error:
        return f"{error} by {text}"
    for name, value in bound.arguments.items():
        wanted = signature.parameters[name].annotation
        if not fits(value, wanted):
            return f"{name} is {type(value).__name__}, not {wanted}"
    return ""


def parse_signature(text: str) -> inspect.Signature:
    """Of `(self: Runtime, index: int = 0) -> ICudaEngine`, without self; annotations stay text."""
    parts = split(text[1 : text.rindex(") -> ")])
    unnamed = [index for index, part in enumerate(parts) if re.match(r"arg\d+:", part)]
    parameters: list[inspect.Parameter] = []
    for index, part in enumerate(parts):
        name, _, rest = part.partition(":")
        if not re.fullmatch(r"\w+", name) or name == "self":
            continue
        wanted, equals, _ = rest.partition(" = ")
        is_unnamed = bool(unnamed) and index <= unnamed[-1]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(
            inspect.Parameter(
                name + "_" * keyword.iskeyword(name),  # some call one `in`
                inspect.Parameter.POSITIONAL_ONLY if is_unnamed else kind,
                default=None if equals else inspect.Parameter.empty,
                annotation=wanted.strip(),
            )
        )
    # C++ allows a default in front of arguments without one; given by keyword, they work.
    for index in range(len(parameters) - 1, 0, -1):
        if parameters[index].default is inspect.Parameter.empty:
            first = parameters[index - 1]
            parameters[index - 1] = first.replace(default=inspect.Parameter.empty)
    return inspect.Signature(parameters)


def split(text: str) -> list[str]:
    """At the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += BRACKETS.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def fits(value: object, wanted: str) -> bool:
    """Whether pybind11 would take the value for this type."""
    if wanted in ("int", "SupportsInt"):
        return hasattr(value, "__index__")
    if wanted in ("str", "bool"):
        return type(value).__name__ == wanted or (wanted == "str" and value is None)
    if wanted in ("buffer", "Buffer"):
        return isinstance(value, (bytes, bytearray, memoryview)) or is_named(value, "IHostMemory")
    if wanted in ("tuple", "list"):
        return type(value).__name__ == wanted
    element = re.fullmatch(r"(?:List|list|Sequence)\[(\w+)\]", wanted)
    if element:
        return isinstance(value, (list, tuple)) and all(fits(v, element.group(1)) for v in value)
    if wanted == "Dims" and isinstance(value, (list, tuple)):
        return True
    if re.fullmatch(r"[A-Za-z.]+", wanted) and wanted != "object":
        return is_named(value, wanted.rpartition(".")[2])
    return True


def is_named(value: object, name: str) -> bool:
    return name in [base.__name__ for base in type(value).__mro__]
