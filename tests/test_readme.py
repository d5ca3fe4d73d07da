"""The README is true: its commands and its example run, its files exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run_block(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@contextmanager
def running_bridge(port: int, settings: Path, stores: Path) -> Iterator[None]:
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "pusher", "bridge", "--port", str(port)),
            *("--settings", settings, "--stores", stores),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as bridge:
        try:
            assert bridge.stdout
            assert "listening" in bridge.stdout.readline()
            yield
        finally:
            bridge.terminate()


def test_the_pipe_of_the_readme_delivers_the_line_of_the_readme(tmp_path: Path, port: int) -> None:
    mapping = {"externalPropertyName": "name", "hubspotPropertyName": "name"}
    settings = tmp_path / "settings.json"
    settings.write_text(
        json.dumps({"enabled": True, "mappings": {"PRODUCT": {"properties": [mapping]}}})
    )
    stores = tmp_path / "stores.json"
    stores.write_text(json.dumps([{"id": "shop-1", "label": "Shop"}]))
    line = blocks("json")[0].replace("\n", " ")
    (tmp_path / "changes.ndjson").write_text(line + "\n")
    with running_bridge(port, settings, stores):
        done = run_block(blocks("sh")[0].replace("8080", str(port)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "delivered: 1 of 1 message delivered " in done.stderr


def test_the_commands_of_the_readme_run(tmp_path: Path, port: int) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is missing")
    (tmp_path / "pusher").symlink_to(ROOT / "pusher")
    start, *commands = blocks("sh")[1].replace("8080", str(port)).replace("\\\n", "").splitlines()
    assert start.endswith("&")
    script = [
        "set -m; trap 'kill $(jobs -p)' EXIT",
        start,
        # Whoever types has the moment that the bridge needs.
        f"until (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done",
        *commands,
    ]
    done = run_block("\n".join(script), tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"delivered": 4059' in done.stdout
    assert done.stderr.count("delivered: 4,059 of 4,059 messages delivered") == 2


def test_the_settings_of_the_readme_give_the_table_of_the_readme(tmp_path: Path) -> None:
    (toml,) = (block for block in blocks("toml") if "[profiles." in block)
    (shown,) = (block for block in blocks("console") if "$ pusher config" in block)
    (tmp_path / "pusher.toml").write_text(toml)
    start, *table = shown.splitlines()
    script = [
        "export PUSHER_BATCH_SIZE=100",
        start.removeprefix("$ "),
        "pusher config",
        "pusher config --profile rehearsal push",
    ]
    done = run_block("\n".join(script), tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert {tuple(line.split()) for line in table[: table.index("...")]} <= lines
    line = toml.splitlines().index("push.limit = 1000") + 1
    assert ("limit", "1000", f"pusher.toml:{line}") in lines


def test_the_plan_of_the_readme_is_the_plan(tmp_path: Path) -> None:
    (tmp_path / "pusher").symlink_to(ROOT / "pusher")
    (shown,) = [block for block in blocks("console") if "pusher plan --settings" in block]
    command, _, expected = shown.removeprefix("$ ").partition("\n")
    done = run_block(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_the_findings_of_a_plan_are_all_in_the_readme() -> None:
    from pusher.findings import KINDS  # noqa: PLC0415

    assert not {kind for kind in KINDS if f"`{kind}`" not in README}


def test_the_example_of_the_library_runs(tmp_path: Path, port: int) -> None:
    (tmp_path / "pusher").symlink_to(ROOT / "pusher")
    (example,) = blocks("python")
    (tmp_path / "example.py").write_text(example.replace("8080", str(port)))
    data = ROOT / "pusher" / "data"
    with running_bridge(port, data / "northwind-settings.json", data / "northwind-stores.json"):
        done = run_block(f"{sys.executable} example.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "delivered 4059\n"


def test_the_example_of_the_library_has_at_most_eight_lines_of_code() -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line]) <= 8


def test_the_report_of_the_readme_has_the_keys_of_a_real_one() -> None:
    from pusher.report import Report  # noqa: PLC0415

    shown = json.loads(blocks("json")[1])
    assert list(shown) == list(Report.__struct_fields__)


def test_every_file_that_the_readme_names_exists() -> None:
    paths = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    paths += re.findall(r"`([\w/.]+\.py|scripts/\w+)`", README)
    homes = (ROOT, ROOT / "pusher")
    missing = [path for path in paths if not any((home / path).exists() for home in homes)]
    assert paths
    assert not missing


def test_the_map_names_every_module() -> None:
    modules = {path.stem for path in (ROOT / "pusher").glob("*.py")} - {"__init__", "__main__"}
    unnamed = {name for name in modules if name not in README}
    assert unnamed <= {"version", "stopping", "progress"}


def test_every_exit_code_of_the_readme_is_in_the_help() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "pusher", "push", "--help"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout
    for code in ("0", "1", "2", "3", "4", "130, 143"):
        assert re.search(rf"^ *\|? *{code}  ", text, re.MULTILINE)
        assert f"| {code} |" in README
