"""Tables on a terminal. What is in a cell is text from elsewhere: it cannot style or steer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

__all__ = ["shows_tables", "table"]


def shows_tables() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout."""
    from rich.console import Console  # noqa: PLC0415 - pipes do without it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from pusher.protocol import printable  # noqa: PLC0415

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for row in rows:
        shown.add_row(*(Text("" if value is None else printable(str(value))) for value in row))
    Console().print(shown)
