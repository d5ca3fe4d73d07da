"""`pusher report`: look at the report of an earlier run, or make a page of it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pusher.cli.connection import printed
from pusher.cli.naming import Apart

__all__ = ["command"]

_EPILOG = """
\b
Examples:
  pusher push export/ --url http://127.0.0.1:8080 --report run.json && pusher report run.json
  pusher push export/ --url http://127.0.0.1:8080 --report - | pusher report - --html run.html
"""


@click.command("report", cls=Apart, epilog=_EPILOG)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT",
    help="Write the page there.",
)
def command(file: Path, html: Path | None) -> None:
    """Show what a run has reported, or make a page for people of it.

    FILE is what --report has written; - is standard input. Without --html the end of the run is
    shown in a few lines, as the run itself did.
    """
    from pusher.cli.running import Unusable, check_folder  # noqa: PLC0415 - loaded when needed
    from pusher.cli.summary import summary  # noqa: PLC0415
    from pusher.errors import DiskError, UsageError  # noqa: PLC0415
    from pusher.page_file import write_page  # noqa: PLC0415
    from pusher.report import Report  # noqa: PLC0415

    try:
        check_folder("--html", html)
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        report = Report.from_json(data)
    except UsageError as error:
        raise Unusable(str(error)) from error
    except OSError as error:
        raise Unusable(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise Unusable(f"{file} is not the report of a run: {error}") from error
    if html is None:
        printed((summary(report) + "\n").encode())
        return
    try:
        write_page(report, html)
    except DiskError as error:
        raise click.ClickException(f"--html: {error}") from error
