"""The scanner under sanitizers: of no chunk, however odd, does it read or write a byte too much."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import sysconfig
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from subprocess import run
from typing import Any

import orjson
import pytest

from proof.ledger import IS_FULL, size
from proof.table import SCANNING

ROOT = Path(__file__).parents[2]
SOURCES = ("_scanner.c", "_lanes.c", "_scanner.h")
SECONDS = size(ci=4, full=600)
AT_ONCE = size(ci=1, full=2)
EXECUTIONS_MIN = size(ci=2_000, full=2_000_000)
GROWN_MIB_MAX = 24
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g")


def address_sanitizer() -> Path | None:
    """The library that has to be loaded first; None where the compiler has none."""
    if not shutil.which("gcc"):
        return None
    told = run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    path = Path(told.stdout.strip())
    return path if path.is_absolute() else None


pytestmark = pytest.mark.skipif(
    address_sanitizer() is None, reason="gcc with its address sanitizer is not there"
)


def texts() -> dict[str, str]:
    """What the scanner is built from, by the names of its files."""
    return {name: (ROOT / "pusher" / name).read_text("utf-8") for name in SOURCES}


def built(sources: Mapping[str, str], folder: Path) -> Path:
    """A build of the scanner with checks of each access; it is no faster for that."""
    for name, text in sources.items():
        (folder / name).write_text(text, "utf-8")
    units, library = [folder / name for name in sources if name.endswith(".c")], folder / "built.so"
    include = sysconfig.get_paths()["include"]
    run(["gcc", "-shared", "-fPIC", *FLAGS, f"-I{include}", *units, "-o", library], check=True)
    return library


def environment() -> Mapping[str, str]:
    """Each object has an allocation of its own, so that a byte too much is seen."""
    return {
        **os.environ,
        "LD_PRELOAD": str(address_sanitizer()),
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }


async def try_for_a_while(library: Path, seed: int) -> dict[str, int]:
    last = library.with_name(f"last-{seed}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proof.scanning", str(library), str(SECONDS), str(seed), str(last)),
        env=environment(),
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        kept = last.read_bytes()
        data = kept[8 : 8 + int.from_bytes(kept[:8], "little")]
        pytest.fail(f"seed {seed}, the last chunk was {data!r}:\n{err.decode()[-5_000:]}")
    done: dict[str, int] = orjson.loads(out)
    return done


@pytest.mark.timeout(SECONDS + 60)
async def test_millions_of_harmed_chunks_are_left_or_taken_without_a_byte_too_much(
    tmp_path: Path,
) -> None:
    """CI takes the same seed each time; a soak has new ones, and notes how many chunks it tried."""
    library = built(texts(), tmp_path)
    first = int(datetime.now(UTC).timestamp()) if IS_FULL else 1
    done = await asyncio.gather(*(try_for_a_while(library, first + n) for n in range(AT_ONCE)))
    total: dict[str, Any] = {
        name: sum(one[name] for one in done) for name in ("executions", "taken", "starved")
    }
    if IS_FULL:
        date = datetime.now(UTC).date().isoformat()
        told = {"date": date, "seconds": SECONDS, "processes": AT_ONCE, "seed": first, **total}
        SCANNING.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
    assert total["executions"] > EXECUTIONS_MIN
    assert total["taken"] > total["executions"] // 20, "most are left at once, some are taken"
    assert max(one["grown_mib"] for one in done) < GROWN_MIB_MAX


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("_scanner.c", "while (end - p >= 8) {", "while (end - p >= 6) {"),
        ("_lanes.c", "(NULL, (Py_ssize_t)room - AROUND_BYTES);", "(NULL, (Py_ssize_t)room - 160);"),
    ],
)
async def test_the_sanitizer_would_tell_of_a_byte_too_much(
    name: str, right: str, wrong: str, tmp_path: Path
) -> None:
    sources = texts()
    assert sources[name].count(right) == 1
    library = built({**sources, name: sources[name].replace(right, wrong)}, tmp_path)
    with pytest.raises(pytest.fail.Exception, match="ERROR: AddressSanitizer"):
        await try_for_a_while(library, 1)
