"""Inputs whose every line can be told again wherever it ends up. Pure: a seed in, lines out."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any

import orjson

__all__ = ["Fate", "Line", "digest_of", "lines", "number_of"]

_TYPES = ("CONTACT", "PRODUCT", "DEAL", "LINE_ITEM")
_FIRST_CHANGE_MS = 1_600_000_000_000
_HOT_OBJECTS = 12


class Fate(Enum):
    """What must become of a line."""

    DELIVERED = "delivered"
    POISON = "poison"
    """Well-formed, and refused by the endpoint."""
    UNDECODABLE = "undecodable"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input, without its line end. `number` is its place, from 0."""

    number: int
    raw: bytes
    fate: Fate
    object_key: tuple[str, str, str]
    digest: int


def digest_of(object_key: tuple[str, str, str], message: dict[str, Any]) -> int:
    """A hash of all that must arrive unchanged, whatever the order of the keys or the spacing."""
    told = {
        "object": object_key,
        "action": message.get("action"),
        "changedAt": int(message["changedAt"]),
        "properties": message.get("properties"),
        "associations": message.get("associations") or {},
    }
    encoded = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(blake2b(encoded, digest_size=6).digest(), "big")


def number_of(message: dict[str, Any]) -> int | None:
    """The number of the line that a message came from; None when it came from none of ours."""
    number = (message.get("properties") or {}).get("n")
    return int(number) if isinstance(number, str) and number.isdigit() else None


def lines(
    count: int,
    *,
    seed: int,
    stores: int = 3,
    poison: float = 0.001,
    undecodable: float = 0.0005,
) -> list[Line]:
    """Make an input: several stores and types, a few objects that change often, some bad lines.

    Args:
        count: lines in all.
        seed: the same seed makes the same bytes.
        stores: how many stores the messages are spread over.
        poison: share of messages that the oracle refuses.
        undecodable: share of lines that are no message at all.
    """
    rng = random.Random(seed)
    return [_line(number, rng, stores, poison, undecodable) for number in range(count)]


def _line(number: int, rng: random.Random, stores: int, poison: float, undecodable: float) -> Line:
    if rng.random() < undecodable:
        raw = _undecodable(number, rng)
        return Line(number, raw, Fate.UNDECODABLE, ("", "", ""), 0)
    is_hot = rng.random() < 0.2
    # A store and a type are part of an object's identity, so the same few ids serve all of them.
    external_id = f"hot-{rng.randrange(_HOT_OBJECTS)}" if is_hot else f"id-{rng.randrange(10**9)}"
    key = (f"store-{rng.randrange(stores)}", rng.choice(_TYPES), external_id)
    is_poison = rng.random() < poison
    message: dict[str, Any] = {
        "storeId": key[0],
        "objectType": key[1],
        "action": "DELETE" if rng.random() < 0.02 else "UPSERT",
        "externalObjectId": external_id,
        "changedAt": _FIRST_CHANGE_MS + number,
        "properties": {"n": str(number), "text": 'é☃ \\ " \n' + "x" * rng.randrange(120)},
        "associations": {"CONTACT": [f"id-{rng.randrange(100)}"]} if rng.random() < 0.3 else {},
    }
    if is_poison:
        message["properties"]["poison"] = "1"
    fate = Fate.POISON if is_poison else Fate.DELIVERED
    return Line(number, orjson.dumps(message), fate, key, digest_of(key, message))


def _undecodable(number: int, rng: random.Random) -> bytes:
    return rng.choice(
        (
            b'{"storeId":"store-0","objectType":"DEAL","n":"%d"' % number,
            b'{"storeId":"store-0","objectType":"INVOICE","externalObjectId":"%d"}' % number,
            b'{"storeId":"store-0","objectType":"DEAL","externalObjectId":"\xff%d"}' % number,
            b"not a message: %d" % number,
        )
    )
