"""Whole fields of protobuf's wire format, in and out: all that editing an ONNX file needs."""

from typing import Dict, Iterator, List, NamedTuple, Tuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_NUMBER = 10
"""Bytes: seven bits of 64 in each."""


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: bytes  # of a bytes field; empty for numbers
    integer: int  # of a varint; 0 for what is none
    raw: bytes  # with its key, as it stands in the file


def parts_of(message: bytes) -> Dict[int, List[Field]]:
    """The fields of a message by number."""
    found: Dict[int, List[Field]] = {}
    for field in fields_of(message):
        found.setdefault(field.number, []).append(field)
    return found


def texts_of(message: bytes, number: int) -> List[str]:
    """The texts of a message's fields of this number."""
    return [field.value.decode() for field in fields_of(message) if field.number == number]


def fields_of(message: bytes) -> Iterator[Field]:
    """The fields of a message, in the order of the file. Raises ValueError where it is none."""
    position = 0
    while position < len(message):
        start = position
        key, position = _varint_at(message, position)
        number, kind = key >> 3, key & 7
        value, integer = b"", 0
        if kind == VARINT:
            integer, position = _varint_at(message, position)
        elif kind == BYTES:
            length, position = _varint_at(message, position)
            value = message[position : position + length]
            position += length
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        else:
            raise ValueError("not protobuf: wire type %d" % kind)
        if position > len(message):
            raise ValueError("not protobuf: a field is cut off")
        yield Field(number, value, integer, message[start:position])


def _varint_at(message: bytes, position: int) -> Tuple[int, int]:
    """The number that begins there, and the position behind it."""
    value = shift = 0
    end = position + LONGEST_NUMBER
    while position < min(end, len(message)):
        byte = message[position]
        value |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if not byte & 0x80:
            return value, position
    raise ValueError("not protobuf: a number %s" % ("has no end" if shift == 70 else "is cut off"))


def varint_of(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def packed(number: int, value: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return varint_of(number << 3 | BYTES) + varint_of(len(value)) + value
