"""The examples in the help of every command are run, against a bridge of their own."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from fakes.command import DATA, PUSHER, environment

from pusher.cli import command
from pusher.generating import generate

DEADLINE_S = 40.0
KCAT = r"""#!/bin/sh
# Stands in for kcat: records as it writes them. A test of exports reads what the real one wrote.
cat kcat.ndjson
"""
MAP = 'unmapped = "skip"\n[topics.orders]\ntype = "DEAL"\nstore = "shop-1"\nid = "id"\n'


def commands(one: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Commands and groups by their words, each with its epilog."""
    if path:
        yield " ".join(path), one.epilog or ""
    if isinstance(one, click.Group):
        ctx = click.Context(command)
        for name in () if path == ("config",) else one.list_commands(ctx):
            inner = one.get_command(ctx, name)
            assert inner is not None
            yield from commands(inner, (*path, name))


def examples(epilog: str) -> list[str]:
    """The lines of shell below "Examples:", continued lines joined, exports before each."""
    block = re.search(r"^Examples?:\n((?:  .*\n?)+)", epilog, re.MULTILINE)
    if block is None:
        return []
    lines = re.sub(r"\\\n\s*", "", block[1]).splitlines()
    exports = "".join(f"{line.strip()}; " for line in lines if line.startswith("  export "))
    return [exports + line.strip() for line in lines if not line.startswith("  export ")]


BEFORE = {
    "repair": "pusher push old.ndjson.gz --phases --report report.json",
    "status": "pusher push old.ndjson.gz --phases",
    "settings get": "pusher settings put settings.json --yes --app-id 7 --developer-key-file key",
}
"""What has to be there, beyond a bridge with settings and stores."""

AFTER = dict.fromkeys(
    ("settings delete", "settings put"), "pusher settings put settings.json --yes"
)
"""What makes good again what an example has done."""

EXAMPLES = {words: examples(epilog) for words, epilog in commands(command, ())}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples name."""
    tmp_path = tmp_path_factory.mktemp("examples")
    stream = b"".join(generate(60, stores=1, seed=1)).decode()
    stream = stream.replace("store-0001", "shop-1").replace('"d1"', '"10248"')
    for folder in ("export", "shop", "bin"):
        (tmp_path / folder).mkdir()
    for name in ("changes.ndjson", "export/1.ndjson", "shop/1.ndjson"):
        (tmp_path / name).write_text(stream)
    (tmp_path / "old.ndjson.gz").write_bytes(gzip.compress(stream.encode()))
    for name in ("token", "secret", "key"):
        (tmp_path / name).write_text(f"the-{name}\n")
    letter = {"reason": "refused", "run_id": "0", "status": 400, "attempts": 8, "changed_at": 1}
    (tmp_path / "pusher.dead.ndjson").write_text(
        "".join(
            json.dumps({**letter, "reason": reason, "record": line}) + "\n"
            for reason, line in zip(
                ("refused", "retries_exhausted"), stream.splitlines(), strict=False
            )
        )
    )
    (tmp_path / "map.toml").write_text(MAP)
    record = {"topic": "orders", "partition": 0, "offset": 0, "tstype": "create", "ts": 1}
    record |= {"broker": 0, "key": "1", "payload": '{"id": 7, "name": "Order"}'}
    (tmp_path / "kcat.ndjson").write_text(json.dumps(record) + "\n")
    (tmp_path / "bin" / "kcat").write_text(KCAT)
    (tmp_path / "bin" / "kcat").chmod(0o755)
    (tmp_path / "bin" / "pusher").write_text(f'#!/bin/sh\nexec {" ".join(PUSHER)} "$@"\n')
    (tmp_path / "bin" / "pusher").chmod(0o755)
    settings = json.loads((DATA / "northwind-settings.json").read_bytes())
    settings["webhookUri"] = f"http://127.0.0.1:{free_port()}/"
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    stores = [{"id": name, "label": name} for name in ("shop-1", "shop-2")]
    (tmp_path / "stores.json").write_text(json.dumps(stores))
    (tmp_path / "store.json").write_text(json.dumps(stores[0]))
    return tmp_path


@contextmanager
def started(script: str, folder: Path, more: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a line of shell; its output goes to the files `out` and `err`."""
    env = environment({"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "EDITOR": "true", **more})
    env["XDG_CONFIG_HOME"] = str(folder)
    with (
        (folder / "out").open("wb") as out,
        (folder / "err").open("wb") as err,
        subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


@pytest.fixture(scope="module")
def bridge(workspace: Path) -> Iterator[str]:
    """The address of a bridge that knows the settings and stores of the folder."""
    argv = (*PUSHER, "bridge", "--port", "0", "--settings", "settings.json", "--app-id", "7")
    with subprocess.Popen(
        [*argv, "--stores", "stores.json"],
        cwd=workspace,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.terminate()


def asked(url: str, body: dict[str, str] | None = None) -> str:
    request = urllib.request.Request(  # noqa: S310 - the bridge's own address
        url, None if body is None else json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        text: str = answer.read().decode()
        return text


def after(script: str, bridge: str, folder: Path) -> tuple[Callable[[], bool], str, int] | None:
    """For a command that goes on: until when, whether it is told to end, and with which code."""

    def says(file: str, text: str) -> Callable[[], bool]:
        return lambda: text in (folder / file).read_text()

    if "tail -F" in script:
        new = f"new-{time.time_ns()}"
        line = {"storeId": "shop-1", "objectType": "DEAL", "externalObjectId": new}
        with (folder / "changes.ndjson").open("a") as changes:
            changes.write(json.dumps(line) + "\n")
        url = f"{bridge}/_bridge/objects/DEAL?storeId=shop-1&externalObjectId={new}"
        return (lambda: '"hubspotId"' in asked(url)), "SIGINT", 130
    if "pusher bridge" in script:
        return says("out", "listening on http://127.0.0.1:"), "SIGINT", 0
    if "--keep" in script:
        return says("out", "The bridge stays at"), "SIGINT", 0
    if "--webhook-uri" in script:  # Nobody can sign for it here.
        return says("err", "the import webhook is served at"), "SIGINT", 130
    if "pusher import" in script and "--resume" not in script:
        return says("err", "the import webhook is served at"), "import", 0
    return None


def run_example(script: str, bridge: str, folder: Path) -> str:
    """Run an example to its end; what it wrote to stdout."""
    webhook = json.loads((folder / "settings.json").read_bytes()).get("webhookUri") or "//:0/"
    more = {"PUSHER_BRIDGE_PORT": "0", "PUSHER_LISTEN": webhook.split("/")[2]}
    ending = after(script, bridge, folder)
    with started(script, folder, more) as process:
        if ending is None:
            code = 0
        else:
            condition, how, code = ending
            wait_until(condition, process, script)
            if how == "import":
                asked(f"{bridge}/_bridge/imports", {"storeId": "shop-1"})
            else:
                os.killpg(process.pid, signal.SIGINT)
        ended = process.wait(DEADLINE_S)
        assert ended == code, f"{script}\n{(folder / 'err').read_text()}"
    return (folder / "out").read_text()


@pytest.mark.parametrize("words", EXAMPLES)
def test_the_help_of_every_command_has_examples_that_name_it(words: str) -> None:
    assert EXAMPLES[words]
    assert any(f"pusher {words}" in example for example in EXAMPLES[words])


@pytest.mark.parametrize("words", EXAMPLES)
def test_the_examples_run(words: str, workspace: Path, bridge: str) -> None:
    """Those of live topics are only read, as `pusher config` reads them: they want brokers."""
    if shutil.which("jq") is None:
        pytest.skip("jq is missing")
    if words in BEFORE:
        run_example(f"{BEFORE[words]} --url {bridge}", bridge, workspace)
    for example in EXAMPLES[words]:
        script = re.sub(r"https?://(bridge\.example|127\.0\.0\.1:8080)", bridge, example)
        script = script.replace(":8443", ":0")
        if "kafka://" in script:
            script = script.replace("pusher push", "pusher config push")
        out = run_example(script, bridge, workspace)
        assert "Traceback" not in (workspace / "err").read_text()
        if "| jq" in script and "errors" not in script:
            assert out.strip(), script
    if words in AFTER:
        run_example(f"{AFTER[words]} --url {bridge}", bridge, workspace)
