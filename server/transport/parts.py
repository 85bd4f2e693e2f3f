"""A message's bytes ─▶ counted, before they are parsed ─▶ let through; or INVALID_ARGUMENT: it has too many parts.

Parsing holds the whole process, on whatever thread it runs. A message of few large parts (images) is parsed as fast as
it is copied; 64 MiB of empty ones take seconds. Walks the wire format, https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from server.errors import RequestError

__all__ = ["most_parts", "parsed", "refuse_crowds"]

MOST = 30_000
"""Fields of a message and of those inside it."""
OF_AN_IMAGE = 16
"""Most fields of a `DetectRequest`, those inside it included."""
VALUES = "InferTensorContents"
"""Its packed numbers are pixels, as many as there are."""
TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def most_parts(images_per_call: int) -> int:
    """How many parts a message may have that holds so many images."""
    return max(MOST, OF_AN_IMAGE * images_per_call)


def parsed(parse: Callable[[bytes], Any], data: bytes, most: int) -> Any:
    """The message, unless it has more parts than that.

    Raises:
        RequestError: It has, or is no message of its type.
    """
    refuse_crowds(parse, data, most)
    try:
        return parse(data)
    except DecodeError:
        raise RequestError("", "not a message of this method's type") from None


def refuse_crowds(parse: Callable[[bytes], Any], data: bytes, most: int) -> None:
    """Counts the parts of a message.

    Args:
        parse: `FromString` of its type; whatever else parses is let through.
        data: The message.
        most: Parts.

    Raises:
        RequestError: It has more.
    """
    kind = getattr(getattr(parse, "__self__", None), "DESCRIPTOR", None)
    if kind is None or len(data) <= 2 * most:  # a part takes two bytes at least
        return
    try:
        left = _left(kind, data, most)
    except IndexError:  # cut short: no message, as parsing will find
        return
    if left < 0:
        raise RequestError("", f"the message has more than {most} parts: send fewer in one message")


def _left(kind: Descriptor, data: bytes, left: int) -> int:
    waiting = [(kind, 0, len(data))]
    while waiting and left >= 0:
        kind, place, end = waiting.pop()
        inside, packed = _fields(kind)
        while place < end and left >= 0:
            left -= 1
            tag, place = _varint(data, place)
            wire = tag & 7
            if wire == 2:
                size, place = _varint(data, place)
                number = tag >> 3
                if number in inside and size:
                    waiting.append((inside[number], place, place + size))
                elif number in packed:
                    left -= size
                place += size
            elif wire == 0:
                _, place = _varint(data, place)
            elif wire in (1, 5):
                place += 8 if wire == 1 else 4
    return left


@lru_cache(256)
def _fields(kind: Descriptor) -> tuple[dict[int, Descriptor], frozenset[int]]:
    """Numbers of the fields that are messages, with their types, and of those that pack many numbers into one."""
    inside = {field.number: field.message_type for field in kind.fields if field.message_type is not None}
    numbers = {field.number for field in kind.fields if field.type not in TEXTS} - inside.keys()
    return inside, frozenset(() if kind.name == VALUES else numbers)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    byte = data[place]
    place += 1
    if byte < 128:
        return byte, place
    value, shift = byte & 127, 7
    while byte >= 128:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if shift > 70:
            raise IndexError("no number is as long")
    return value, place
