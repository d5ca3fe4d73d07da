"""A digest of messages that does not depend on their order, nor on how a client writes its JSON."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import orjson

__all__ = ["Digest", "of_lines"]

_MODULUS = 1 << 64


class Digest:
    """The sum of all messages' hashes, and how many came after a newer one of their object."""

    def __init__(self) -> None:
        self.value = 0
        self.out_of_order = 0
        self._newest: dict[tuple[str, str, str], int] = {}

    def add(self, body: bytes) -> None:
        """Take one request's body.

        Raises:
            ValueError: it is not JSON.
            KeyError: it lacks what a body must have.
        """
        request = orjson.loads(body)
        for message in request["messages"]:
            self.add_message(request["storeId"], request["objectType"], message)

    def add_message(self, store: str, object_type: str, message: dict[str, object]) -> None:
        """Take one message; a missing map is an empty one."""
        identity = (store, object_type, str(message["externalObjectId"]))
        changed_at = int(str(message["changedAt"]))
        if changed_at < self._newest.get(identity, 0):
            self.out_of_order += 1
        self._newest[identity] = changed_at
        whole = [
            *identity,
            message.get("action", "UPSERT"),
            changed_at,
            message.get("properties") or {},
            message.get("associations") or {},
        ]
        text = orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)
        number = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
        self.value = (self.value + number) % _MODULUS


def of_lines(lines: Iterable[bytes]) -> Digest:
    """The digest that delivering exactly these lines makes."""
    digest = Digest()
    for line in lines:
        message = orjson.loads(line)
        digest.add_message(message["storeId"], message["objectType"], message)
    return digest
