"""Make change streams of any size: shops with customers, products, orders and order lines.

Pure, and the same for the same seed: lines in, lines out. Objects come before what points at them,
and the property names are those of the bundled Northwind settings.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

__all__ = ["generate"]

_POINTER = re.compile(r'("associations":\{"[A-Z]+":\[")([a-z])')
_FIRST_CHANGE_MS = 1_600_000_000_000
_BLOCK_LINES = 1_000

_FIRST_NAMES = ("Ana", "Björn", "Chloé", "Dmitri", "Elif", "Femke", "Giulia", "Hanna", "Íñigo")
_LAST_NAMES = (
    "Alvarez",
    "Berg",
    "Costa",
    "Dupont",
    "Endo",
    "Fischer",
    "García",
    "Hansen",
    "Ivanov",
)
_WORDS = ("green", "dried", "smoked", "whole", "organic", "fresh", "roasted", "spiced", "plain")
_GOODS = ("tea", "coffee", "rice", "cheese", "honey", "olives", "bread", "pasta", "chocolate")
_STAGES = ("checkout_pending", "checkout_completed", "processed")


class _Store:
    """What one store has had so far; ids count up from 1."""

    __slots__ = ("contacts", "deals", "items", "name", "products")

    def __init__(self, number: int) -> None:
        self.name = f"store-{number:04d}"
        self.contacts = self.products = self.deals = self.items = 0


def generate(
    count: int,
    *,
    stores: int = 1,
    seed: int = 0,
    bad_share: float = 0.0,
    dangling_share: float = 0.0,
) -> Iterator[bytes]:
    """Yield blocks of whole lines, `count` lines in all, for `stores` stores named store-0001 on.

    About 5 % are contacts, 4 % products, 26 % deals, a third of them shipped later, 64 % line
    items, and one in a hundred deletes a product.

    Args:
        count: of lines.
        stores: how many.
        seed: the same one gives the same bytes.
        bad_share: of lines that are cut off in the middle, 0 to 1.
        dangling_share: of deals and line items that point at an object that never comes, 0 to 1.
    """
    rng = random.Random(seed)
    harm = random.Random(seed + 1)  # Of its own: the other lines stay what they are.
    shops = [_Store(number + 1) for number in range(stores)]
    block: list[str] = []
    for number in range(count):
        shop = shops[int(rng.random() * stores)]
        line = _line(shop, rng.random(), rng, _FIRST_CHANGE_MS + number * 50)
        if dangling_share and '"associations"' in line and harm.random() < dangling_share:
            line = _POINTER.sub(r"\1gone-\2", line, count=1)
        if bad_share and harm.random() < bad_share:
            line = line[: len(line) // 2] + "\n"
        block.append(line)
        if len(block) == _BLOCK_LINES:
            yield "".join(block).encode()
            block.clear()
    if block:
        yield "".join(block).encode()


def _line(shop: _Store, draw: float, rng: random.Random, at_ms: int) -> str:
    if draw < 0.05 or not shop.contacts:
        return _contact(shop, rng, at_ms)
    if draw < 0.09 or not shop.products:
        return _product(shop, rng, at_ms)
    if draw < 0.27 or not shop.deals:
        return _deal(shop, rng, at_ms)
    if draw < 0.35:
        return _shipped_deal(shop, rng, at_ms)
    if draw < 0.36:
        return (
            f'{{"storeId":"{shop.name}","objectType":"PRODUCT","action":"DELETE",'
            f'"changedAt":{at_ms},"externalObjectId":"p{_one_of(shop.products, rng)}"}}\n'
        )
    return _line_item(shop, rng, at_ms)


def _one_of(count: int, rng: random.Random) -> int:
    return int(rng.random() * count) + 1


def _contact(shop: _Store, rng: random.Random, at_ms: int) -> str:
    shop.contacts += 1
    first = _FIRST_NAMES[int(rng.random() * 9)]
    last = _LAST_NAMES[int(rng.random() * 9)]
    return (
        f'{{"storeId":"{shop.name}","objectType":"CONTACT","action":"UPSERT","changedAt":{at_ms},'
        f'"externalObjectId":"c{shop.contacts}","properties":{{"firstname":"{first}",'
        f'"familyname":"{last}","customer_email":"c{shop.contacts}@{shop.name}.example",'
        f'"phone_number":"+49 30 {at_ms % 10_000_000:07d}"}}}}\n'
    )


def _product(shop: _Store, rng: random.Random, at_ms: int) -> str:
    shop.products += 1
    name = f"{_WORDS[int(rng.random() * 9)]} {_GOODS[int(rng.random() * 9)]} {shop.products}"
    price = int(rng.random() * 10_000) / 100
    return (
        f'{{"storeId":"{shop.name}","objectType":"PRODUCT","action":"UPSERT","changedAt":{at_ms},'
        f'"externalObjectId":"p{shop.products}","properties":{{"product_name":"{name}",'
        f'"price":"{price}","product_description":"{name}, by the dozen"}}}}\n'
    )


def _deal(shop: _Store, rng: random.Random, at_ms: int) -> str:
    shop.deals += 1
    stage = _STAGES[int(rng.random() * 3)]
    return (
        f'{{"storeId":"{shop.name}","objectType":"DEAL","action":"UPSERT","changedAt":{at_ms},'
        f'"externalObjectId":"d{shop.deals}","properties":{{"name":"Order {shop.deals}",'
        f'"stage":"{stage}","purchase_date":"{at_ms}"}},'
        f'"associations":{{"CONTACT":["c{_one_of(shop.contacts, rng)}"]}}}}\n'
    )


def _shipped_deal(shop: _Store, rng: random.Random, at_ms: int) -> str:
    return (
        f'{{"storeId":"{shop.name}","objectType":"DEAL","action":"UPSERT","changedAt":{at_ms},'
        f'"externalObjectId":"d{_one_of(shop.deals, rng)}","properties":{{"stage":"shipped"}}}}\n'
    )


def _line_item(shop: _Store, rng: random.Random, at_ms: int) -> str:
    shop.items += 1
    quantity = int(rng.random() * 20) + 1
    price = int(rng.random() * 10_000) / 100
    return (
        f'{{"storeId":"{shop.name}","objectType":"LINE_ITEM","action":"UPSERT",'
        f'"changedAt":{at_ms},"externalObjectId":"i{shop.items}","properties":{{'
        f'"num_items":"{quantity}","price":"{price}","discount_amount":"0"}},'
        f'"associations":{{"DEAL":["d{_one_of(shop.deals, rng)}"],'
        f'"PRODUCT":["p{_one_of(shop.products, rng)}"]}}}}\n'
    )
