"""The protobuf wire format, as far as editing an ONNX file needs it: whole fields, in and out.

A robot has no other use for the ``onnx`` package.
"""

from typing import Iterator, List, NamedTuple, Tuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: bytes  # of a bytes field; empty for numbers
    integer: int  # of a varint; 0 for what is none
    raw: bytes  # with its key, as it stands in the file


def names_in(message: bytes, number: int) -> List[str]:
    """The texts of a message's fields of this number."""
    return [field.value.decode() for field in fields_of(message) if field.number == number]


def fields_of(message: bytes) -> Iterator[Field]:
    """The fields of a message, in the order of the file. Raises ValueError where it is none."""
    position = 0
    while position < len(message):
        start = position
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        value, integer = b"", 0
        if kind == _VARINT:
            integer, position = _varint(message, position)
        elif kind == _BYTES:
            length, position = _varint(message, position)
            value = message[position : position + length]
            position += length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not protobuf: wire type %d" % kind)
        if position > len(message):
            raise ValueError("not protobuf: a field is cut off")
        yield Field(number, value, integer, message[start:position])


def _varint(message: bytes, position: int) -> Tuple[int, int]:
    value = shift = 0
    while position < len(message):
        byte = message[position]
        value |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if not byte & 0x80:
            return value, position
    raise ValueError("not protobuf: a number is cut off")


def pack(number: int, value: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(value)) + value


def pack_integer(number: int, value: int) -> bytes:
    """A field of a number that is not negative."""
    return _encoded(number << 3 | _VARINT) + _encoded(value)


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
