"""Values of a command line: durations, sizes, samples with units; secrets and JSON from files."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from pusher.sampling import SampleSize
from pusher.tally import RejectedMax

__all__ = [
    "CONCURRENCY",
    "DURATION",
    "HEADER",
    "REJECTED_MAX",
    "SAMPLE",
    "SHARE",
    "SIZE",
    "SOURCE",
    "read_json_object",
    "read_secret",
]

_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "m": 1 << 20,
    "g": 1 << 30,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
_HEADER_SEPARATOR = re.compile(r"[:=]")
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*", re.ASCII)


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None or match[2].lower() not in _DURATION_UNITS_S:
            self.fail(f"{value!r} is not a duration such as 500ms, 30s, 15m or 2h", param, ctx)
        return float(match[1]) * _DURATION_UNITS_S[match[2].lower()]


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None or match[2].lower() not in _SIZE_UNITS:
            self.fail(f"{value!r} is not a size such as 65536, 512KiB or 4MiB", param, ctx)
        return int(float(match[1]) * _SIZE_UNITS[match[2].lower()])


class _Sample(click.ParamType[SampleSize]):
    name = "N|P%|all"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> SampleSize:
        if isinstance(value, SampleSize):
            return value
        text = value.strip()
        number = text.removesuffix("%")
        if text == "all":
            return SampleSize(is_all=True)
        try:
            if text.endswith("%"):
                percent = float(number)
                if 0 <= percent <= 100:
                    return SampleSize(rate=percent / 100)
            elif number.isascii() and number.isdigit():
                return SampleSize(count=int(number))
        except ValueError:
            percent = None
        return self.fail(
            f"{value!r} is not a number of messages, a share, as 1%, or all", param, ctx
        )


class _Share(click.ParamType[float]):
    name = "P%"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        rate = SAMPLE.convert(value, param, ctx).rate
        if rate is None:
            self.fail(f"{value!r} is not a share, as 1%", param, ctx)
        return rate


class _Concurrency(click.ParamType[int | None]):
    name = "N|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if isinstance(value, int):
            return value
        if value == "auto":
            return None
        if not (value.isascii() and value.isdigit() and int(value)):
            self.fail(f"{value!r} is neither a number from 1 nor auto", param, ctx)
        return int(value)


class _RejectedMax(click.ParamType[RejectedMax]):
    name = "N|P%"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> RejectedMax:
        if isinstance(value, RejectedMax):
            return value
        if value.strip() == "all":
            self.fail("'all' is not a number of messages or a share, as 1%", param, ctx)
        size = SAMPLE.convert(value, param, ctx)
        return RejectedMax(size.count, size.rate)


class _Header(click.ParamType[tuple[str, str]]):
    name = "NAME: VALUE"
    envvar_list_splitter = "\n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, *rest = _HEADER_SEPARATOR.split(value, maxsplit=1)
        if not rest or not name.strip():
            # It is not shown: it may hold a secret.
            self.fail("a header is given as NAME: VALUE or NAME=VALUE", param, ctx)
        return name.strip(), rest[0].strip()


class _Source(click.Path):
    """What is read: completed as file names are, but it may also be - or the address of a topic."""

    envvar_list_splitter = "\n"


def read_secret(value: str | None, file: str | Path | None, flag: str) -> str | None:
    """A secret from its flag or variable, or from the first line of a file.

    Raises:
        click.UsageError: both are given, the file cannot be read, or there is nothing in it.
    """
    if file is not None and value is not None:
        raise click.UsageError(f"give {flag} or {flag}-file, not both")
    if file is not None:
        try:
            lines = Path(file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a text file"
            raise click.UsageError(f"{flag}-file: {file}: {why}") from error
        value = lines[0].strip() if lines else ""
    if value == "":
        raise click.UsageError(f"{flag} is empty")
    return value


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; - is stdin.

    Raises:
        click.UsageError: there is none.
    """
    try:
        value = json.loads(sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.UsageError(f"{file} does not hold a JSON object")
    return value


CONCURRENCY = _Concurrency()
DURATION = _Duration()
HEADER = _Header()
REJECTED_MAX = _RejectedMax()
SIZE = _Size()
SOURCE = _Source(readable=False)  # Who opens it says what is wrong with it.
SAMPLE = _Sample()
SHARE = _Share()
