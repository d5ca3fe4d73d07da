"""The HubSpot account behind the bridge: which properties exist on it. No store, no HTTP.

The catalogue begins with HubSpot's standard properties of the four types, as far as ecommerce
integrations map to them; `/_bridge/properties` reads and replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from pusher.bridge.model import ObjectType
from pusher.bridge.refusals import Problem, invalid
from pusher.bridge.validation import decode

PropertyKind = Literal["string", "number", "datetime", "date", "enumeration", "bool"]

#: The internal ids of the stages of the ecommerce pipeline.
ECOMMERCE_STAGES: Final = (
    "checkout_abandoned",
    "checkout_pending",
    "checkout_completed",
    "processed",
    "shipped",
    "cancelled",
)
_LIFECYCLE_STAGES: Final = (
    "subscriber",
    "lead",
    "marketingqualifiedlead",
    "salesqualifiedlead",
    "opportunity",
    "customer",
    "evangelist",
    "other",
)
_LEAD_STATUSES: Final = (
    "NEW",
    "OPEN",
    "IN_PROGRESS",
    "OPEN_DEAL",
    "UNQUALIFIED",
    "ATTEMPTED_TO_CONTACT",
    "CONNECTED",
    "BAD_TIMING",
)
_FREQUENCIES: Final = (
    "weekly",
    "biweekly",
    "monthly",
    "quarterly",
    "per_six_months",
    "annually",
    "per_two_years",
    "per_three_years",
)


class PropertySpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A property that is defined on the account."""

    name: str
    type: PropertyKind = "string"
    options: tuple[str, ...] = ()
    required: bool = False


Catalogue = dict[ObjectType, tuple[PropertySpec, ...]]


def _strings(names: str) -> Iterable[PropertySpec]:
    return (PropertySpec(name) for name in names.split())


def _of(kind: PropertyKind, names: str) -> Iterable[PropertySpec]:
    return (PropertySpec(name, kind) for name in names.split())


STANDARD: Final[Catalogue] = {
    "CONTACT": (
        # "Email is a required property for all contacts created through the Ecommerce Bridge"
        PropertySpec("email", required=True),
        *_strings(
            "firstname lastname salutation phone mobilephone fax company jobtitle website address"
            " city state zip country industry message twitterhandle hs_language date_of_birth"
            " work_email hubspot_owner_id"
        ),
        *_of("number", "annualrevenue numemployees"),
        *_of("datetime", "createdate closedate"),
        PropertySpec("lifecyclestage", "enumeration", _LIFECYCLE_STAGES),
        PropertySpec("hs_lead_status", "enumeration", _LEAD_STATUSES),
    ),
    "PRODUCT": (
        PropertySpec("name", required=True),
        *_strings(
            "description hs_sku hs_url hs_images hs_folder_id hubspot_owner_id"
            " ip__ecomm_bridge__image_url"
        ),
        *_of("number", "price hs_cost_of_goods_sold tax"),
        *_of("datetime", "createdate"),
        *_of("bool", "hs_recurring"),
        PropertySpec("recurringbillingfrequency", "enumeration", _FREQUENCIES),
    ),
    "DEAL": (
        PropertySpec("dealname", required=True),
        PropertySpec("dealstage", "enumeration", ECOMMERCE_STAGES, required=True),
        *_strings(
            "description closed_lost_reason closed_won_reason deal_currency_code hubspot_owner_id"
            " ip__ecomm_bridge__abandoned_cart_url ip__ecomm_bridge__order_number"
            " ip__ecomm_bridge__shipment_ids"
        ),
        *_of(
            "number",
            "amount amount_in_home_currency ip__ecomm_bridge__discount_amount"
            " ip__ecomm_bridge__tax_amount",
        ),
        *_of("datetime", "closedate createdate"),
        PropertySpec("dealtype", "enumeration", ("newbusiness", "existingbusiness")),
    ),
    "LINE_ITEM": (
        *_strings("name description hs_sku hs_url hs_line_item_currency_code"),
        *_of("number", "quantity price discount hs_discount_percentage tax amount"),
        *_of("number", "hs_cost_of_goods_sold"),
        *_of("datetime", "createdate"),
        *_of("date", "hs_recurring_billing_start_date"),
        PropertySpec("recurringbillingfrequency", "enumeration", _FREQUENCIES),
    ),
}


def decode_catalogue(body: bytes) -> Catalogue:
    """The body of PUT /_bridge/properties: object type -> its properties, all of them."""
    catalogue = decode(body, Catalogue)
    for object_type, specs in catalogue.items():
        names = [spec.name for spec in specs]
        if len(set(names)) < len(names):
            raise invalid(
                f"A property of {object_type} is named twice",
                Problem("is named twice", object_type),
            )
        for spec in specs:
            if spec.type == "enumeration" and not spec.options:
                raise invalid(
                    f"The enumeration {spec.name} has no options",
                    Problem("an enumeration needs options", f"{object_type}.{spec.name}"),
                )
    return catalogue


def catalogue_document(catalogue: Catalogue) -> dict[str, Any]:
    """The catalogue as JSON; it can be PUT back."""
    document: dict[str, Any] = msgspec.to_builtins(catalogue)
    return document
