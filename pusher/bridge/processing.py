"""What one sync message does to the state: the rules of the bridge. No SQL, no clock, no thread.

The caller brings the working copies that a message can touch; this room changes them or says why
it cannot. What is a fact of the API and what is a choice stands in README.md beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from pusher.bridge.model import ERROR_TYPES, ErrorType, Fault, ObjectType
from pusher.bridge.portal import ECOMMERCE_STAGES, PropertyKind, PropertySpec
from pusher.bridge.validation import Message, PropertyMapping, Scalar, Settings, is_long

#: The associations that the API knows. All others resolve to nothing.
ASSOCIATIONS: Final[dict[ObjectType, tuple[ObjectType, ...]]] = {
    "CONTACT": (),
    "PRODUCT": (),
    "DEAL": ("CONTACT",),
    "LINE_ITEM": ("DEAL", "PRODUCT"),
}
#: HubSpot names these properties in the details of an error; clients read them there.
_ASSOCIATION_PROPERTIES: Final[dict[ObjectType, str]] = {
    "CONTACT": "hs_assoc__contact_ids",
    "DEAL": "hs_assoc__deal_id",
    "PRODUCT": "hs_assoc__product_id",
    "LINE_ITEM": "hs_assoc__line_item_id",
}
_EMAIL: Final = re.compile(r"[^@\s,;<>()\[\]]+@[^@\s.,;<>()\[\]]+(\.[^@\s.,;<>()\[\]]+)+")
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_RANK: Final = {error_type: rank for rank, error_type in enumerate(ERROR_TYPES)}


@dataclass(slots=True)
class Link:
    """What the bridge remembers of one external id."""

    hubspot_id: int | None = None
    changed_at_ms: int | None = None
    is_tombstone: bool = False
    last_processed_at_ms: int | None = None
    errored_at_ms: int | None = None
    has_open_error: bool = False


@dataclass(slots=True)
class Record:
    """One HubSpot object. `associations` is type -> external id -> HubSpot id."""

    properties: dict[str, str] = field(default_factory=dict)
    associations: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an external property goes, and what its value must be."""

    spec: PropertySpec
    kinds: tuple[PropertyKind, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything outside the message that decides its fate, made once per batch."""

    object_type: ObjectType
    portal_id: int
    app_id: int
    store_id: str
    fault: Fault | None = None
    targets: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    @property
    def email_sources(self) -> tuple[str, ...]:
        """The external names that are mapped to a contact's e-mail address."""
        if self.object_type != "CONTACT":
            return ()
        return tuple(
            name
            for name, targets in self.targets.items()
            if any(target.spec.name == "email" for target in targets)
        )


@dataclass(slots=True)
class Workspace:
    """The working copies that the messages of one batch can touch."""

    records: dict[int, Record]
    contacts_by_email: dict[str, int]
    associated: Mapping[ObjectType, Mapping[str, int]]
    new_id: Callable[[], int]
    changed_records: set[int] = field(default_factory=set)
    created: int = 0


def make_rules(
    object_type: ObjectType,
    store_id: str,
    app_id: int,
    *,
    settings: Settings | None,
    specs: tuple[PropertySpec, ...],
    portal_id: int,
    portal_is_active: bool,
) -> Rules:
    """The rules for a batch, from the settings and the account as they are at this moment."""
    fault = None
    if not portal_is_active:
        fault = Fault("INACTIVE_PORTAL", f"Portal {portal_id} is not active")
    elif settings is None:
        fault = Fault("NO_SYNC_SETTINGS", f"No sync settings found for portal {portal_id}")
    elif not settings.enabled:
        fault = Fault("SETTINGS_NOT_ENABLED", f"Settings of portal {portal_id} are not enabled")
    if fault is not None or settings is None:
        return Rules(object_type, portal_id, app_id, store_id, fault)
    defined = {spec.name: spec for spec in specs}
    targets: dict[str, tuple[Target, ...]] = {}
    for mapping in settings.of(object_type):
        so_far = targets.setdefault(mapping.external_property_name, ())
        spec = defined.get(mapping.hubspot_property_name)
        if spec is not None:
            target = Target(spec, _kinds(spec, mapping))
            targets[mapping.external_property_name] = (*so_far, target)
    required = tuple(spec.name for spec in specs if spec.required)
    return Rules(object_type, portal_id, app_id, store_id, None, targets, required)


def _kinds(spec: PropertySpec, mapping: PropertyMapping) -> tuple[PropertyKind, ...]:
    """What a value must be: the property's own type, narrowed by the mapping's dataType."""
    kinds: list[PropertyKind] = [] if spec.type == "string" else [spec.type]
    if mapping.data_type == "NUMBER" and spec.type != "number":
        kinds.append("number")
    if mapping.data_type == "DATETIME" and spec.type not in {"datetime", "date"}:
        kinds.append("datetime")
    return tuple(kinds)


def as_text(value: str | float | bool) -> str:  # noqa: FBT001  # JSON has booleans.
    """A property value as HubSpot keeps it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def email_of(rules: Rules, message: Message) -> str | None:
    """The e-mail address in a message as it is matched, None when there is none."""
    properties = message.properties
    found = None
    if isinstance(properties, dict):
        for name in rules.email_sources:
            value = properties.get(name)
            if value is not None:
                found = as_text(value).strip().lower()
    return found or None


def settle(
    rules: Rules, message: Message, changed_at_ms: int, link: Link, workspace: Workspace
) -> Fault | None:
    """Let one message change `link` and the records in `workspace`; None when it succeeded."""
    if rules.fault is not None:
        return rules.fault
    # A deleted object stays deleted, and an older change is out of date: nothing to do, no error.
    if link.is_tombstone or changed_at_ms < (link.changed_at_ms or 0):
        return None
    if message.action == "DELETE":
        # DELETE ends the syncing of this external id. It does not remove the HubSpot record.
        link.is_tombstone = True
        link.changed_at_ms = changed_at_ms
        return None
    hubspot_id = link.hubspot_id
    if hubspot_id is None and rules.object_type == "CONTACT":
        # "HubSpot will first check to see if any contact exists with the same email address."
        wanted = email_of(rules, message)
        hubspot_id = workspace.contacts_by_email.get(wanted) if wanted else None
    record = workspace.records[hubspot_id] if hubspot_id is not None else None
    properties = message.properties if isinstance(message.properties, dict) else {}
    values = _translate(rules, properties, message, is_new=record is None)
    if isinstance(values, Fault):
        return values
    associations = _associate(rules, message, workspace)
    if isinstance(associations, Fault):
        return associations
    if record is None or hubspot_id is None:
        hubspot_id, record = workspace.new_id(), Record()
        workspace.records[hubspot_id] = record
        workspace.created += 1
    _write(rules, record, values, associations)
    workspace.changed_records.add(hubspot_id)
    if rules.object_type == "CONTACT":
        email = record.properties.get("email")
        if email is not None:
            workspace.contacts_by_email.setdefault(email, hubspot_id)
    link.hubspot_id = hubspot_id
    link.changed_at_ms = changed_at_ms
    return None


def mark(link: Link, fault: Fault | None, now_ms: int) -> None:
    """Move the two timestamps by which clients tell a failure from a success.

    An object has failed when `erroredAt` equals `lastProcessedAt` (HubSpot's changed rule) or is
    greater (its first rule); so a success must get past the last error.
    """
    now_ms = max(now_ms, link.last_processed_at_ms or 0)
    if fault is not None:
        link.errored_at_ms = link.last_processed_at_ms = now_ms
        link.has_open_error = True
        return
    if link.errored_at_ms is not None:
        now_ms = max(now_ms, link.errored_at_ms + 1)
    link.last_processed_at_ms = now_ms
    link.has_open_error = False


def _translate(
    rules: Rules, properties: Mapping[str, Scalar], message: Message, *, is_new: bool
) -> dict[str, str] | Fault:
    """External properties -> HubSpot properties; of several faults the first of the order wins."""
    values: dict[str, str] = {}
    is_mapped = not properties
    is_defined = not properties
    faults: list[Fault] = []
    for name, value in properties.items():
        targets = rules.targets.get(name)
        if targets is None:
            continue
        is_mapped = True
        for target in targets:
            is_defined = True
            if value is None:  # Null says nothing; a blank clears.
                continue
            text = value if type(value) is str else as_text(value)
            if rules.object_type == "CONTACT" and target.spec.name == "email":
                text = text.strip().lower()
            values[target.spec.name] = text
            faults.extend(_check(rules, target, text, message, is_new=is_new))
    if not is_mapped:
        names = ", ".join(properties)
        return Fault("NO_MAPPINGS_DEFINED", f"No mappings defined for properties [{names}]")
    if not is_defined:
        names = ", ".join(properties)
        return Fault("NO_PROPERTIES_DEFINED", f"No properties defined for mappings of [{names}]")
    if is_new:
        missing = [name for name in rules.required if not values.get(name)]
        if missing:
            details = f"Missing required properties [{', '.join(missing)}]"
            faults.append(Fault("MISSING_REQUIRED_PROPERTY", details))
    if faults:
        return min(faults, key=lambda fault: _RANK[fault.type])
    return values


def _check(
    rules: Rules, target: Target, text: str, message: Message, *, is_new: bool
) -> Iterator[Fault]:
    name = target.spec.name
    if rules.object_type == "DEAL" and name == "dealstage":
        # A deal always has a stage, so a blank one is wrong too where there is a deal.
        if text not in ECOMMERCE_STAGES and (text or not is_new):
            details = f"Deal stage [{text}] is not part of the ecommerce pipeline"
            yield Fault("INVALID_DEAL_STAGE", details)
        return
    if not text:
        return
    if rules.object_type == "CONTACT" and name == "email":
        if not _EMAIL.fullmatch(text):
            yield Fault("INVALID_EMAIL_ADDRESS", f"Email address [{text}] is invalid")
        return
    for kind in target.kinds:
        error_type, reason = _value_problem(kind, target.spec, text)
        if error_type == "INVALID_ENUM_PROPERTY":
            yield Fault(error_type, f"{text} was not one of the allowed options of {name}")
        elif error_type is not None:
            yield Fault(
                error_type, _invalid_value(rules, message, name, text, reason=reason, is_new=is_new)
            )


def _value_problem(
    kind: PropertyKind, spec: PropertySpec, text: str
) -> tuple[ErrorType | None, str]:
    if kind in {"datetime", "date"}:
        # Epoch milliseconds; before 1970 they are negative. ISO 8601 is not taken.
        return (None, "") if is_long(text.removeprefix("-")) else ("UNKNOWN_ERROR", "LONG")
    if kind == "number":
        return (None, "") if _NUMBER.fullmatch(text) else ("UNKNOWN_ERROR", "DOUBLE")
    options = ("true", "false") if kind == "bool" else spec.options
    return (None, "") if text in options else ("INVALID_ENUM_PROPERTY", "")


def _invalid_value(
    rules: Rules,
    message: Message,
    name: str,
    text: str,
    *,
    reason: str,
    is_new: bool,
) -> str:
    """The details text as clients have met it, down to the missing space."""
    action = "CREATE" if is_new else "UPDATE"
    how = "create/update by email" if rules.object_type == "CONTACT" else "create/update"
    result = {
        "isValid": False,
        "message": f"{text} was not a valid {reason.lower()}.",
        "error": f"INVALID_{reason}",
        "name": name,
    }
    body = {
        "validationResults": [result],
        "status": "error",
        "message": "Property values were not valid",
    }
    return (
        f"Error performing[{action}] {rules.object_type}[{message.external_object_id}] for portal"
        f" {rules.portal_id}, error was [{rules.portal_id}] {how} failed -"
        f" InvalidProperty: {orjson.dumps(body).decode()}"
    )


def _associate(
    rules: Rules, message: Message, workspace: Workspace
) -> dict[str, dict[str, int]] | Fault:
    """Resolve the associations against what has been processed by now."""
    if not isinstance(message.associations, dict):
        return {}
    resolved: dict[str, dict[str, int]] = {}
    missing: list[str] = []
    for other_type, external_ids in message.associations.items():
        known = workspace.associated.get(other_type, {})
        if other_type not in ASSOCIATIONS[rules.object_type]:
            known = {}
        found = resolved[other_type] = {}
        for external_id in map(str, external_ids):
            hubspot_id = known.get(external_id)
            if hubspot_id is None:
                missing.append(f"{_ASSOCIATION_PROPERTIES[other_type]}: {external_id}")
            else:
                found[external_id] = hubspot_id
    if missing:
        details = f"Invalid associations [{', '.join(missing)}]. Do those objects exist?"
        return Fault("INVALID_ASSOCIATION_PROPERTY", details)
    return resolved


def _write(
    rules: Rules,
    record: Record,
    values: Mapping[str, str],
    associations: Mapping[str, dict[str, int]],
) -> None:
    properties = record.properties
    for name, text in values.items():
        # "we do not support changing contact email addresses at this time"
        if name == "email" and rules.object_type == "CONTACT" and "email" in properties:
            continue
        if text:
            properties[name] = text
        else:
            properties.pop(name, None)
    record.associations.update(associations)
    properties["ip__ecomm_bridge__ecomm_synced"] = "true"
    sources = [("ip__ecomm_bridge__source_store_id", rules.store_id)]
    if rules.app_id:
        sources.append(("ip__ecomm_bridge__source_app_id", str(rules.app_id)))
    for name, source in sources:
        so_far = properties.get(name)
        # "Only contacts can have multiple source stores. All other objects will have a single
        # value." HubSpot joins several values by ";".
        if so_far is None or rules.object_type != "CONTACT":
            properties[name] = source
        elif source not in so_far.split(";"):
            properties[name] = f"{so_far};{source}"
