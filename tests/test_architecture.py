"""Who may import whom (design: rooms). A newcomer who reads this test can draw the house."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pusher"

LAYERS: tuple[tuple[str, frozenset[str]], ...] = (
    ("version", frozenset({"version"})),
    ("errors", frozenset({"errors"})),
    ("nouns", frozenset({"model"})),
    (
        "still rooms",
        frozenset(
            {
                "_scanner",
                "batching",
                "changes",
                "constraint",
                "coverage",
                "crosschecking",
                "decoding",
                "detecting",
                "envelopes",
                "findings",
                "forecast",
                "generating",
                "isolating",
                "mapping",
                "masking",
                "plain",
                "planning",
                "protocol",
                "page",
                "plotting",
                "proxying",
                "refreshing",
                "pacing",
                "records",
                "repairing",
                "report",
                "resuming",
                "retrying",
                "sampling",
                "selecting",
                "series",
                "settings_file",
                "showing",
                "tally",
                "watermark",
            }
        ),
    ),
    (
        "doors",
        frozenset(
            {
                "census",
                "checkpoint",
                "dead_letters",
                "delivery_ledger",
                "durability",
                "import_state",
                "journal",
                "kafka_letters",
                "memory",
                "page_file",
                "record_spool",
                "sample_file",
                "sources",
                "spool",
                "time_limit",
                "tls",
                "transport",
                "webhook",
            }
        ),
    ),
    (
        "carriers",
        frozenset(
            {
                "admission",
                "bookkeeping",
                "checkpointing",
                "committing",
                "confirmer",
                "dispatching",
                "metrics",
                "patience",
                "polling",
                "preflight",
                "progress",
                "room",
                "sender",
                "settling",
                "snapshot",
                "stopping",
                "watching",
                "windows",
            }
        ),
    ),
    ("config", frozenset({"config"})),
    (
        "the house",
        frozenset(
            {
                "accounting",
                "client",
                "confirming",
                "importing",
                "intake",
                "monitor",
                "pipeline",
                "repairer",
                "surveying",
            }
        ),
    ),
    ("front door", frozenset({"", "__main__", "cli"})),
)
STILL_ROOMS = LAYERS[3][1]
NOT_IN_A_STILL_ROOM = frozenset(
    {
        "aiohttp",
        "anyio",
        "asyncio",
        "datetime",
        "io",
        "logging",
        "os",
        "pathlib",
        "select",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
    }
)
TALKS_HTTP = {"monitor", "transport", "webhook"}
KNOWS_KAFKA = {
    "kafka_letters",
    "sources.client",
    "sources.consuming",
    "sources.converting",
    "sources.offsets",
    "sources.until",
}
MAY_IMPORT_THE_BRIDGE = {"cli.bridge", "cli.demo"}
SUFFIXES = {".py", ".pyi"}
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "base", "core"}


@dataclass(frozen=True)
class Import:
    """One imported module, by its whole name; `is_for_types` when only a type checker sees it."""

    name: str
    line: int
    is_for_types: bool


def module_name(path: Path) -> str:
    """The name below `pusher`: "" for the package itself, "sources.lines" for a module of one."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# A compiled module has a stub beside its source.
FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py*")) if path.suffix in SUFFIXES}
PUSHING = [name for name in FILES if name.split(".")[0] != "bridge"]
BRIDGE = [name for name in FILES if name.split(".")[0] == "bridge"]


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    tree = ast.parse(FILES[module].read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: relative import"
            base = node.module or ""
            # `from pusher import errors` names a module, `from pusher import push` does not.
            names = [
                f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base
                for alias in node.names
            ]
        else:
            continue
        found += [Import(name, node.lineno, id(node) in for_types) for name in names]
    return tuple(found)


def is_module(name: str) -> bool:
    return name.removeprefix("pusher.") in FILES and name.startswith("pusher.")


def inner_imports(module: str, *, at_run_time: bool = False) -> set[str]:
    """The modules of this package that a module imports."""
    return {
        "" if one.name == "pusher" else one.name.removeprefix("pusher.")
        for one in imports_of(module)
        if one.name.split(".")[0] == "pusher" and not (at_run_time and one.is_for_types)
    }


def outer_imports(module: str) -> set[str]:
    return {one.name.split(".")[0] for one in imports_of(module)} - {"pusher"}


def layer_of(module: str) -> int:
    room = module.split(".", maxsplit=1)[0]
    for number, (_, rooms) in enumerate(LAYERS):
        if room in rooms:
            return number
    raise AssertionError(f"pusher/{module}: which layer is it in? Say so in LAYERS")


def test_there_is_something_to_check() -> None:
    assert len(PUSHING) > 20
    assert BRIDGE
    assert "model" in inner_imports("batching")


@pytest.mark.parametrize("module", PUSHING)
def test_every_module_has_a_layer(module: str) -> None:
    assert layer_of(module) >= 0


def test_every_room_that_the_layers_name_exists() -> None:
    rooms = {module.split(".")[0] for module in PUSHING}
    assert set().union(*(names for _, names in LAYERS)) == rooms


@pytest.mark.parametrize("module", [name for name in PUSHING if name])
def test_a_module_imports_nothing_from_above(module: str) -> None:
    for imported in inner_imports(module) - {""}:
        if imported.split(".")[0] == "bridge":
            continue  # Another test says who may.
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}"


@pytest.mark.parametrize(
    "module", [name for name in PUSHING if name and name.split(".")[0] != "cli"]
)
def test_only_commands_import_the_package_itself(module: str) -> None:
    assert "" not in inner_imports(module)


def test_no_import_goes_in_circles() -> None:
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done or module not in FILES:
            return
        for imported in inner_imports(module, at_run_time=True):
            # Inside a package, `pusher.sources` itself is what its modules are part of.
            if imported:
                visit(imported, (*trail, module))
        done.add(module)

    for module in FILES:
        if module:
            visit(module, ())


@pytest.mark.parametrize("module", sorted(STILL_ROOMS))
def test_a_still_room_has_no_clock_and_no_door(module: str) -> None:
    assert not outer_imports(module) & NOT_IN_A_STILL_ROOM


@pytest.mark.parametrize("module", sorted(STILL_ROOMS))
def test_a_still_room_draws_no_chance_of_its_own(module: str) -> None:
    """It is given a generator, or makes one from a seed that it is given."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "random" or node.attr == "Random", f"random.{node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr != "Random" or node.args, f"line {node.lineno}: no seed"


@pytest.mark.parametrize("module", sorted(STILL_ROOMS))
def test_a_still_room_opens_and_prints_nothing(module: str) -> None:
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input"}
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await)


@pytest.mark.parametrize("module", [name for name in PUSHING if name not in TALKS_HTTP])
def test_only_the_doors_to_the_network_know_aiohttp(module: str) -> None:
    assert not outer_imports(module) & {"aiohttp", "yarl"}


@pytest.mark.parametrize("module", [name for name in PUSHING if name not in KNOWS_KAFKA])
def test_only_the_doors_to_kafka_know_its_client(module: str) -> None:
    assert "confluent_kafka" not in outer_imports(module)


@pytest.mark.parametrize("module", BRIDGE)
def test_the_bridge_imports_nothing_of_the_pushing_path(module: str) -> None:
    """Shared code would hide a wrong field name on both sides."""
    assert all(name.split(".")[0] == "bridge" for name in inner_imports(module))


@pytest.mark.parametrize("module", [name for name in PUSHING if name not in MAY_IMPORT_THE_BRIDGE])
def test_only_its_own_command_and_the_demo_import_the_bridge(module: str) -> None:
    assert not {name for name in inner_imports(module) if name.split(".")[0] == "bridge"}


@pytest.mark.parametrize("module", FILES)
def test_every_module_says_what_it_does(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[module].read_text()))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?"))


@pytest.mark.parametrize("module", FILES)
def test_no_module_has_a_vague_name(module: str) -> None:
    assert not set(module.split(".")) & VAGUE_NAMES


@pytest.mark.parametrize("module", FILES)
def test_no_module_is_too_long_to_read(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= 600
