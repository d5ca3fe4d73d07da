"""`pusher bridge` as a process: its first line, its exit codes, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner, Result

from pusher.cli.bridge import command

from .talk import SETTINGS, Talk, upsert

START = "from pusher.cli.bridge import command; command()"


@contextlib.asynccontextmanager
async def bridge(*arguments: str) -> AsyncIterator[tuple[Process, Talk]]:
    """A bridge in a process of its own; it is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", START, "--port", "0", *arguments, stdout=PIPE, stderr=PIPE
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on http://127.0.0.1:"), await process.communicate()
        async with aiohttp.ClientSession() as session:
            yield process, Talk(session, line.removeprefix("listening on ").strip())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def run(*arguments: str) -> Result:
    """The command where it must refuse to start."""
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_0_and_stdout_holds_one_line(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with bridge("--db", str(tmp_path / "b.db")) as (process, talk):
        await talk.send("PRODUCT", upsert("1", name="p"))
        process.send_signal(number)
        out, err = await process.communicate()
        assert process.returncode == 0
        assert (out, err) == (b"", b"")


async def test_a_kill_after_the_204s_loses_nothing(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    arguments = ("--db", str(tmp_path / "b.db"), "--settings", str(settings))
    # Half of it waits for its delay, half of it is being processed when the kill comes.
    async with bridge(*arguments, "--processing-delay", "DEAL=600s") as (process, talk):
        for start in range(0, 20_000, 200):
            ids = [str(start + n) for n in range(200)]
            deals = (upsert(i, name="d", stage="processed") for i in ids)
            await asyncio.gather(
                talk.send("PRODUCT", *(upsert(i, name="p") for i in ids)),
                talk.send("DEAL", *deals),
            )
        process.kill()
        await process.wait()
    async with bridge(*arguments) as (process, talk):
        await talk.settled()
        stats = await talk.stats()
        for object_type in ("PRODUCT", "DEAL"):
            assert stats[object_type] == {
                "accepted": 20_000,
                "queued": 0,
                "processed": 20_000,
                "objects": 20_000,
                "openErrors": 0,
                "lagMs": 0,
            }


async def test_settings_and_stores_are_there_at_the_start(tmp_path: Path) -> None:
    settings, stores = tmp_path / "settings.json", tmp_path / "stores.json"
    settings.write_text(json.dumps(SETTINGS))
    stores.write_text(json.dumps([{"id": "shop", "label": "Shop"}]))
    async with bridge("--settings", str(settings), "--stores", str(stores)) as (_, talk):
        await talk.sync("PRODUCT", upsert("1", name="p"), store="shop")
        assert (await talk.status("PRODUCT", "1", "shop"))["errors"] == []


async def test_credentials_from_files_are_enforced(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken\n")
    async with bridge("--token-file", str(token)) as (_, talk):
        path = "/extensions/ecomm/v2/stores"
        assert (await talk.ask("GET", path)).status == 401
        headers = {"Authorization": "Bearer t0ken"}
        assert (await talk.ask("GET", path, headers=headers)).status == 200


async def test_verbose_tells_on_stderr_what_is_done_and_no_secret() -> None:
    async with bridge("-v", "--api-key", "s3cret") as (process, talk):
        assert (await talk.ask("GET", "/extensions/ecomm/v2/nothing?hapikey=s3cret")).status == 404
        assert (await talk.ask("GET", "/extensions/ecomm/v2/settings?hapikey=s3cret")).status == 404
        process.terminate()
        out, err = await process.communicate()
        assert out == b""
        assert b"/extensions/ecomm/v2/settings: 404" in err
        assert b"s3cret" not in err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_open_bridge_is_refused_outside_of_loopback(host: str) -> None:
    result = run("--host", host, "--port", "0")
    assert result.exit_code == 2
    assert "not a loopback address" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--processing-delay", "soon"),
        ("--processing-delay", "5 fortnights"),
        ("--processing-delay", "COMPANY=5s"),
        ("--processing-delay", "DEAL="),
        ("--latency", "fast"),
        ("--jitter", "-1s"),
        ("--port", "70000"),
        ("--settings", "/nonexistent"),
        ("--token", ""),
        ("--db", "/nonexistent/b.db"),
    ],
)
def test_a_flag_that_makes_no_sense_is_exit_2(arguments: tuple[str, ...]) -> None:
    result = run("--port", "0", *arguments)
    assert result.exit_code == 2
    assert "Error" in result.output


def test_a_processing_delay_that_names_a_type_twice_is_refused() -> None:
    result = run("--port", "0", "--processing-delay", "DEAL=1s, DEAL=2s")
    assert result.exit_code == 2
    assert "DEAL comes twice" in result.output


@pytest.mark.parametrize("content", ["{", "[]", '{"enabled": "yes"}'])
def test_a_settings_file_that_holds_none_is_exit_2(tmp_path: Path, content: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    assert run("--port", "0", "--settings", str(path)).exit_code == 2


def test_the_help_warns_about_secrets_and_names_the_other_forms() -> None:
    text = " ".join(run("--help").output.split())
    assert "Visible in `ps`; prefer PUSHER_BRIDGE_TOKEN or --token-file." in text
    assert "LINE_ITEM=0,DEAL=2s" in text


def test_a_secret_can_be_given_once_only(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("t")
    assert run("--port", "0", "--token", "t", "--token-file", str(path)).exit_code == 2
