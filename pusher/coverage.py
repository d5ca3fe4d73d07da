"""Hold properties against the mappings of a bridge: what is covered, and what would fail. No I/O.

Messages with the same property names are looked at together: what their names mean is worked out
once. Without mappings only what holds under any mapping is found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw

from pusher.errors import UsageError
from pusher.findings import Findings
from pusher.model import OBJECT_TYPES, ObjectType

__all__ = ["Coverage", "MappedType", "Mappings", "decode_maps"]

SHAPES_BYTES_MAX = 4 << 20
"""So much is remembered of sets of names that came together; an input has mostly a few sets."""

NAME_BYTES = 100
"""What a name takes besides its characters."""

SECONDS_BELOW = 10**11
"""1973 in milliseconds, the year 5138 in seconds."""

SECONDS_FROM = 10**8

_STAGES = frozenset(
    {
        "checkout_abandoned",
        "checkout_pending",
        "checkout_completed",
        "processed",
        "shipped",
        "cancelled",
    }
)
_EMAIL = re.compile(r"[^@\s,;<>()\[\]]+@[^@\s.,;<>()\[\]]+(\.[^@\s.,;<>()\[\]]+)+")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LONG = re.compile(r"-?\d{1,19}", re.ASCII)

Scalar = str | int | float | bool | None
Properties = dict[str, Scalar]

_decode_many = msgspec.json.Decoder(list[Properties]).decode
_decode_one = msgspec.json.Decoder(Properties).decode


class _Mapping(msgspec.Struct, rename="camel"):
    external_property_name: str
    hubspot_property_name: str
    data_type: str | None = None


class _OfType(msgspec.Struct):
    properties: list[_Mapping] | None = None


class _Settings(msgspec.Struct):
    enabled: bool = True
    mappings: dict[str, Any] | list[Any] | None = None


@dataclass(frozen=True, slots=True)
class MappedType:
    """The mappings of one type, by the external name of the property."""

    names: frozenset[str]
    emails: frozenset[str]
    stages: frozenset[str]
    times: frozenset[str]
    numbers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Mappings:
    """The settings of a bridge ("Get settings"), as far as they decide what becomes of messages."""

    enabled: bool
    types: Mapping[ObjectType, MappedType] = field(default_factory=dict)
    """Those with at least one mapping."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Mappings:
        """Read settings as `GET /settings` returns them.

        Raises:
            UsageError: they are no settings.
        """
        try:
            read = msgspec.convert(settings, _Settings)
            mappings = read.mappings if isinstance(read.mappings, dict) else {}
            types = {
                object_type: msgspec.convert(mappings[object_type], _OfType).properties or []
                for object_type in OBJECT_TYPES
                if isinstance(mappings.get(object_type), dict)
            }
        except msgspec.ValidationError as error:
            raise UsageError(f"these are no settings of a bridge: {error}") from error
        return cls(
            read.enabled, {name: _mapped(name, each) for name, each in types.items() if each}
        )


def _mapped(object_type: ObjectType, mappings: Sequence[_Mapping]) -> MappedType:
    def named(hubspot_name: str, of: ObjectType) -> frozenset[str]:
        return frozenset(
            one.external_property_name
            for one in mappings
            if object_type == of and one.hubspot_property_name == hubspot_name
        )

    def typed(data_type: str) -> frozenset[str]:
        return frozenset(
            one.external_property_name for one in mappings if one.data_type == data_type
        )

    return MappedType(
        names=frozenset(one.external_property_name for one in mappings),
        emails=named("email", "CONTACT"),
        stages=named("dealstage", "DEAL"),
        times=typed("DATETIME"),
        numbers=typed("NUMBER"),
    )


def decode_maps(maps: Sequence[Raw]) -> list[Properties | None]:
    """Decode maps of properties; None where one has a value that is no scalar."""
    try:
        # One call for all is three times as fast as one each.
        return list(_decode_many(b"[" + b",".join(maps) + b"]"))
    except (msgspec.DecodeError, RecursionError):
        return [_decoded(one) for one in maps]


def _decoded(one: Raw) -> Properties | None:
    try:
        return _decode_one(one)
    except (msgspec.DecodeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the names of a message's properties mean."""

    unmapped: tuple[str, ...]
    is_nothing_mapped: bool
    checked: tuple[tuple[str, str], ...]
    """(kind of check, name)."""


class Coverage:
    """Looks at the properties of an input's upserts.

    Args:
        mappings: of the bridge; None where they are not known.
        findings: where they go.
    """

    def __init__(self, mappings: Mappings | None, findings: Findings) -> None:
        self._mappings = mappings
        self._findings = findings
        self._shapes: dict[tuple[ObjectType, tuple[str, ...]], _Shape] = {}
        self._bytes_left = SHAPES_BYTES_MAX

    def __repr__(self) -> str:
        return f"<Coverage of {len(self._shapes)} sets of names>"

    def look(
        self, object_type: ObjectType, properties: Sequence[Raw], places: Sequence[int]
    ) -> list[bool]:
        """Look at the properties of upserts of one type.

        Args:
            object_type: theirs.
            properties: as JSON objects.
            places: where each message is.

        Returns:
            For each message, whether its object may be created: a contact has an e-mail address.
        """
        decoded = decode_maps(properties)
        add = self._findings.add
        are_whole: list[bool] = []
        unmapped: dict[str, list[int]] = {}
        for found, place in zip(decoded, places, strict=True):
            if found is None:
                add("bad_properties", object_type, [place])
                are_whole.append(True)
                continue
            shape = self._shape(object_type, tuple(found))
            if shape.is_nothing_mapped:
                add("nothing_mapped", object_type, [place])
            for name in shape.unmapped:
                unmapped.setdefault(name, []).append(place)
            for check, name in shape.checked:
                value = found[name]
                # Mostly they are whole numbers or decimals, as text.
                if check == "bad_number" and isinstance(value, str) and _is_plain_number(value):
                    continue
                self._check(object_type, check, name, value, place)
            if None in found.values():
                add("null_values", object_type, [place])
            are_whole.append(object_type != "CONTACT" or self._has_email(found))
        for name, where in unmapped.items():
            add("unmapped_property", f"{object_type}.{name}", where)
        return are_whole

    def _shape(self, object_type: ObjectType, names: tuple[str, ...]) -> _Shape:
        shape = self._shapes.get((object_type, names))
        if shape is None:
            shape = self._meaning(object_type, names)
            size_bytes = sum(map(len, names)) + NAME_BYTES * (len(names) + 1)
            if size_bytes < self._bytes_left:
                self._bytes_left -= size_bytes
                self._shapes[object_type, names] = shape
        return shape

    def _meaning(self, object_type: ObjectType, names: tuple[str, ...]) -> _Shape:
        mapped = self._mappings.types.get(object_type) if self._mappings else None
        if mapped is None:  # Nothing is known; or all of the type fails, which is said elsewhere.
            return _Shape((), is_nothing_mapped=False, checked=())
        checks = (
            ("bad_email", mapped.emails),
            ("bad_stage", mapped.stages),
            ("bad_time", mapped.times),
            ("bad_number", mapped.numbers),
        )
        unmapped = tuple(name for name in names if name not in mapped.names)
        return _Shape(
            unmapped,
            is_nothing_mapped=bool(names) and len(unmapped) == len(names),
            checked=tuple(
                (check, name) for check, checked in checks for name in names if name in checked
            ),
        )

    def _check(
        self, object_type: ObjectType, check: str, name: str, value: Scalar, place: int
    ) -> None:
        """Say of a value what the bridge would say when it processes it. A blank one clears."""
        if value is None or value == "":
            return
        text = value.strip() if isinstance(value, str) else _as_text(value)
        of = f"{object_type}.{name}"
        if check == "bad_email":
            is_good = _EMAIL.fullmatch(text) is not None
        elif check == "bad_stage":
            is_good = text in _STAGES
        elif check == "bad_time":
            is_good = _LONG.fullmatch(text) is not None
            if is_good and SECONDS_FROM <= int(text) < SECONDS_BELOW:
                self._findings.add("seconds_in_property", of, [place])
        else:
            is_good = _NUMBER.fullmatch(text) is not None
        if not is_good:
            self._findings.add(check, of, [place])

    def _has_email(self, found: Properties) -> bool:
        """Whether a contact has an address: under these mappings, or else under any."""
        if self._mappings is None:
            return any(isinstance(value, str) and "@" in value for value in found.values())
        contacts = self._mappings.types.get("CONTACT")
        if contacts is None or not contacts.emails:
            return True  # All contacts fail, which is said elsewhere.
        return any(found.get(name) for name in contacts.emails)


def _is_plain_number(text: str) -> bool:
    """Digits with or without a point: told in half the time that the expression takes."""
    return text.isascii() and text.replace(".", "", 1).isdigit()


def _as_text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)
