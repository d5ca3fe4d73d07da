"""The hubspot3 client as its README uses it: `python push.py INPUT URL`.

Lines are collected until 200 of a store and type are there, which is what the client sends in one
request. It opens a connection for each request, and sends one at a time.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from hubspot3.ecommerce_bridge import MAX_ECOMMERCE_BRIDGE_SYNC_MESSAGES, EcommerceBridgeClient


def push(path: str, url: str) -> None:
    """Send each line of the file."""
    client = EcommerceBridgeClient(api_base=url, access_token="benchmark")
    lanes: dict[tuple[str, str], list[dict[str, object]]] = defaultdict(list)
    with Path(path).open("rb") as file:
        for line in file:
            message = json.loads(line)
            key = (message.pop("storeId"), message.pop("objectType"))
            lanes[key].append(message)
            if len(lanes[key]) == MAX_ECOMMERCE_BRIDGE_SYNC_MESSAGES:
                client.send_sync_messages(key[1], lanes.pop(key), key[0])
    for (store, object_type), messages in lanes.items():
        client.send_sync_messages(object_type, messages, store)


if __name__ == "__main__":
    push(sys.argv[1], sys.argv[2])
