"""The names that a library user sees: they exist, and loading them costs what they need."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pusher

INIT = Path(pusher.__file__)


def modules() -> list[str]:
    """Every module but the commands, which are for `pusher.cli` alone, and the bridge's inside."""
    names = [one.name for one in pkgutil.walk_packages(pusher.__path__, "pusher.")]
    inside = ("pusher.cli.", "pusher.bridge.")
    return ["pusher", *(name for name in names if not name.startswith(inside))]


def homes_for_type_checkers() -> dict[str, str]:
    """What the TYPE_CHECKING block of the package imports: name -> module."""
    for node in ast.parse(INIT.read_text()).body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return {
                alias.asname or alias.name: statement.module or ""
                for statement in node.body
                if isinstance(statement, ast.ImportFrom)
                for alias in statement.names
            }
    raise AssertionError("there is no TYPE_CHECKING block")


@pytest.mark.parametrize("name", pusher.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(pusher, name) is not None


@pytest.mark.parametrize("name", [name for name in pusher.__all__ if name != "__version__"])
def test_a_public_name_is_what_type_checkers_take_it_for(name: str) -> None:
    home = importlib.import_module(homes_for_type_checkers()[name])
    assert getattr(pusher, name) is getattr(home, name)


def test_what_type_checkers_see_is_what_is_public() -> None:
    assert {*homes_for_type_checkers(), "__version__"} == set(pusher.__all__)
    assert set(pusher._HOMES) == set(homes_for_type_checkers())


def test_the_names_that_the_readme_uses_are_public() -> None:
    assert {"push", "Settings", "Report", "BridgeClient"} <= set(pusher.__all__)


def test_all_errors_are_public_and_of_one_family() -> None:
    for name in ("UsageError", "InputError", "EndpointError", "BridgeApiError", "DiskError"):
        assert issubclass(getattr(pusher, name), pusher.PusherError)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pusher.nothing  # noqa: B018 - asking is the test


@pytest.mark.parametrize("name", modules())
def test_a_modules_public_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__, name
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public), public


@pytest.mark.parametrize("name", modules())
def test_public_names_are_in_order(name: str) -> None:
    names = list(importlib.import_module(name).__all__)
    assert names == sorted(names, key=rank)


def rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff sorts them."""
    if name.isupper():
        return 0, name
    return (1 if name[0].isupper() else 2), name


def loaded_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"aiohttp", "anyio", "asyncio", "msgspec", "orjson", "click", "rich", "zstandard"}
    assert not loaded_by("import pusher; pusher.__version__") & heavy


def test_opening_a_source_loads_no_http_client() -> None:
    assert "aiohttp" not in loaded_by("from pusher import open_source, UsageError")


def test_the_bridge_loads_nothing_of_the_pushing_path() -> None:
    loaded = loaded_by("import pusher.bridge")
    inside = {name for name in loaded if name.startswith("pusher.")}
    allowed = {"pusher.version"}
    assert {name for name in inside if not name.startswith("pusher.bridge")} <= allowed


def test_the_pushing_path_loads_nothing_of_the_bridge() -> None:
    loaded = loaded_by("from pusher import push, BridgeClient")
    assert not {name for name in loaded if name.startswith(("pusher.bridge", "pusher.cli."))}
    assert not loaded & {"rich", "click", "sqlite3"}
