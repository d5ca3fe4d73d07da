"""What came of campaigns with consumer groups: shown at the end of a run, and kept by a soak."""

from __future__ import annotations

from dataclasses import dataclass, field

from proof.judge import Verdict
from proof.ledger import Ledger

__all__ = ["Campaigns"]


@dataclass
class Campaigns:
    """The account of a run."""

    ledger: Ledger = field(default_factory=Ledger)
    lines: list[str] = field(default_factory=list)

    def note(
        self,
        group: str,
        name: str,
        verdict: Verdict,
        *,
        harms: int,
        protests: list[str],
        elapsed_s: float,
    ) -> None:
        """Write a campaign down, before it is judged by an assertion.

        Args:
            group: "groups" or "storms".
            name: what its members went through.
            verdict: of the judge.
            harms: how often members were killed or stopped, or came.
            protests: all that was found wrong.
            elapsed_s: how long it took.
        """
        self.ledger.add(group, name, verdict, harms=harms, protests=protests)
        self.ledger.entry(group, name).figures["elapsed_s"] = round(elapsed_s, 1)
        self.lines.append(
            f"members {name}: {harms} harms, {verdict.repeated} of {verdict.messages} messages"
            f" repeated, {elapsed_s:.0f} s"
        )
