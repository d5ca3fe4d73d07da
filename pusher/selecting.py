"""Which of the messages that were read are to be sent. Values in, values out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass, field

from pusher.model import OBJECT_TYPES, Group, Groups, SyncMessage

__all__ = ["Selected", "Selection"]


@dataclass(slots=True)
class Selected:
    """What of a chunk is to be sent.

    Attributes:
        messages: with their `indexes` in the chunk.
        groups: messages that were not decoded one by one; a chunk has the ones or the others.
        skipped: how many are not sent by rule, by reason. What another pass sends is not in it.
        is_whole: nothing was cut off at the limit.
    """

    messages: list[SyncMessage]
    indexes: Iterable[int]
    groups: Groups | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    is_whole: bool = True

    @property
    def count(self) -> int:
        """How many messages are to be sent."""
        return len(self.messages) if self.groups is None else self.groups.left()


class Selection:
    """Chooses messages, for one pass over the input.

    Args:
        pass_types: the types of this pass; others belong to another one.
        only_stores: the stores to send; empty for all.
        only_types: the types to send; empty for all.
        limit: so many messages are sent at most.
        why_skipped: a further rule: why a message is not sent, or None.
    """

    def __init__(
        self,
        *,
        pass_types: Container[str] = OBJECT_TYPES,
        only_stores: Collection[str] = (),
        only_types: Collection[str] = (),
        limit: int | None = None,
        why_skipped: Callable[[SyncMessage], str | None] | None = None,
    ) -> None:
        self._pass_types = pass_types
        self._only_stores = only_stores
        self._only_types = only_types
        self._left = limit
        self._why_skipped = why_skipped
        self._has_rules = bool(only_stores or only_types or why_skipped) or any(
            name not in pass_types for name in OBJECT_TYPES
        )

    def __repr__(self) -> str:
        return f"<Selection, {'no limit' if self._left is None else f'{self._left} to go'}>"

    @property
    def is_exhausted(self) -> bool:
        """The limit is reached."""
        return self._left is not None and self._left <= 0

    def select_groups(self, groups: Groups) -> Selected:
        """Choose among the lanes of a chunk, where no rule is about single messages."""
        skipped: Counter[str] = Counter()
        for group in groups if self._has_rules else ():
            if group.object_type not in self._pass_types:
                group.drop()
            elif (reason := self._why_lane(group)) is not None:
                skipped[reason] += group.drop()
        return Selected([], (), groups, skipped)

    def select(self, messages: list[SyncMessage], indexes: Iterable[int]) -> Selected:
        """Choose among the messages of a chunk."""
        selected = (
            self._by_rule(messages, indexes) if self._has_rules else Selected(messages, indexes)
        )
        if self._left is not None:
            count = len(selected.messages)
            if count > self._left:
                selected.messages = selected.messages[: self._left]
                selected.indexes = list(selected.indexes)[: self._left]
                selected.is_whole = False
            self._left -= min(count, self._left)
        return selected

    def _by_rule(self, messages: list[SyncMessage], indexes: Iterable[int]) -> Selected:
        kept: list[SyncMessage] = []
        places: list[int] = []
        skipped: Counter[str] = Counter()
        for message, index in zip(messages, indexes, strict=True):
            if message.object_type not in self._pass_types:
                continue
            reason = self._why(message)
            if reason is None:
                kept.append(message)
                places.append(index)
            else:
                skipped[reason] += 1
        return Selected(kept, places, skipped=skipped)

    def _why(self, message: SyncMessage) -> str | None:
        reason = self._why_lane(message)
        if reason is None and self._why_skipped is not None:
            reason = self._why_skipped(message)
        return reason

    def _why_lane(self, one: SyncMessage | Group) -> str | None:
        if self._only_stores and one.store_id not in self._only_stores:
            return "other_store"
        if self._only_types and one.object_type not in self._only_types:
            return "other_type"
        return None
