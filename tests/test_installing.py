"""Installing: what is made again, and what a package has in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STALE = "_scanner.suffix.so"
BUILT_FROM = ("pyproject.toml", "pusher/_scanner.c", "pusher/_lanes.c", "pusher/_scanner.h")

PYTHON = """#!/bin/sh
case "$2" in *sysconfig*) echo .suffix.so ;; esac
"""
UV = """#!/bin/sh
case "$1" in
venv) rm -rf .venv && mkdir -p .venv/bin ;;
pip)
  ls pusher build 2>/dev/null >> installed.log
  printf '#!/bin/sh\\n' > .venv/bin/pusher
  chmod +x .venv/bin/pusher
  ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with what `scripts/install` looks at, and programs that only seem to install."""
    for name in (*BUILT_FROM, "scripts/install"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, target)
        os.utime(target, (1_000_000_000, 1_000_000_000))
    for name, text in (("python3", PYTHON), ("uv", UV)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    return tmp_path


def install(clone: Path) -> list[str]:
    """Run it; what was in `pusher/` and `build/` when it was installed, empty if it was not."""
    log = clone / "installed.log"
    log.unlink(missing_ok=True)
    env = {"PATH": f"{clone / 'bin'}:{os.environ['PATH']}"}
    subprocess.run((clone / "scripts/install", ".venv"), env=env, check=True, timeout=20)
    return log.read_text().split() if log.exists() else []


def test_it_is_installed_once(clone: Path) -> None:
    assert "_scanner.c" in install(clone)
    assert install(clone) == []


@pytest.mark.parametrize("name", BUILT_FROM)
def test_it_is_installed_again_when_what_it_is_built_from_has_changed(
    clone: Path, name: str
) -> None:
    install(clone)
    os.utime(clone / name, (later := (clone / ".venv/installed").stat().st_mtime + 1, later))
    assert "_scanner.c" in install(clone)


def test_it_is_installed_again_when_its_python_is_gone(clone: Path) -> None:
    install(clone)
    (clone / ".venv/bin/pusher").write_text("#!/gone/python3\n")
    assert "_scanner.c" in install(clone)


def test_what_was_compiled_from_another_source_is_not_left_where_it_cannot_be_compiled(
    clone: Path,
) -> None:
    (clone / "build").mkdir()
    for stale in (clone / "pusher" / STALE, clone / "build" / STALE):
        stale.touch()
    (clone / "pusher/_scanner.of-another-python.so").touch()
    found = install(clone)
    assert STALE not in found
    assert "_scanner.of-another-python.so" in found


def test_a_package_has_every_file_that_is_not_a_module() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folder = ROOT / "pusher"
    named = {path for glob in settings["package-data"]["pusher"] for path in folder.glob(glob)}
    built = {".py", ".pyc", ".so", ".c", ".h"}
    files = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in built}
    assert files == named
    assert not settings["include-package-data"]
