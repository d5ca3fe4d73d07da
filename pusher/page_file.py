"""Write the page of a report, so that there is a whole one or none."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from pusher.durability import replace_durably
from pusher.errors import DiskError
from pusher.page import page_of
from pusher.report import Report

__all__ = ["write_page"]


def write_page(report: Report, path: Path) -> None:
    """Make the page and put it in the place of what was there.

    Raises:
        DiskError: that failed; what was there is as it was.
    """
    data = files("pusher") / "data"
    page = page_of(
        report,
        style=(data / "report.css").read_text("utf-8"),
        script=(data / "report.js").read_text("utf-8"),
    )
    try:
        _replace(path, page.encode())
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from error


def _replace(path: Path, data: bytes) -> None:
    target = Path(os.path.realpath(path))  # A link stays one.
    mode = None
    with suppress(FileNotFoundError):
        mode = target.stat().st_mode
    if mode is not None and not stat.S_ISREG(mode):
        target.write_bytes(data)  # A device or a pipe.
        return
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with new.open("xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace_durably(new, target)
    except OSError:
        with suppress(OSError):  # It is the first failure that tells what is wrong.
            new.unlink(missing_ok=True)
        raise
