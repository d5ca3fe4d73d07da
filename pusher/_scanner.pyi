"""Cuts a chunk of lines into pieces of request bodies, by lane. Compiled from `_scanner.c`."""  # noqa: PYI021

from pusher.model import ObjectType

__all__ = ["Group", "scan"]

class Group:
    @property
    def store_id(self) -> str: ...
    @property
    def object_type(self) -> ObjectType: ...
    def __len__(self) -> int: ...
    def take(
        self,
        most: int,
        most_bytes: int,
        at_least_one: bool,
        /,
    ) -> tuple[bytes, str, list[int]] | None: ...
    def drop(self) -> int: ...

def scan(
    data: bytes,
    first_origin: int,
    default_store: str | None,
    default_type: str | None,
    filled_ms: int,
    /,
) -> tuple[list[Group], int, int, int, bool] | None: ...
