"""The commands that talk to a bridge: what they print where, what they ask, how they end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from fakes.command import (
    PUSHER,
    Ended,
    ended,
    message,
    ndjson,
    northwind_bridge,
    run,
    run_shell,
    starting,
)

from pusher.cli import command as command_line

KEY = "developer-k3y"
TOKEN = "oauth-t0ken"
API_KEY = "account-k3y"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[str]:
    async with northwind_bridge(cwd=tmp_path) as url:
        yield url


async def on_terminal(
    *arguments: str | Path, cwd: Path, typed: bytes = b"", out_is_terminal: bool = False
) -> Ended:
    """Run `pusher` with a terminal as stdin, and as stdout where that is wanted."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed)
        env = {"COLUMNS": "200", "TERM": "xterm"}
        async with starting(
            *PUSHER,
            *arguments,
            cwd=cwd,
            stdin=theirs,
            **({"stdout": theirs} if out_is_terminal else {}),
            env=env,
        ) as process:
            shown = b""
            if out_is_terminal:
                os.close(theirs)
                theirs = -1
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(40):
                    while block := await loop.run_in_executor(None, _read, ours):
                        shown += block
            done = await ended(process, within_s=40)
            return Ended(done.code, shown or done.out, done.err)
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


async def inside(*arguments: str) -> Result:
    """Run `pusher` in a thread of this process: fast, for what needs no process of its own."""
    result = await asyncio.to_thread(CliRunner().invoke, command_line, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def _read(descriptor: int) -> bytes:
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed.
        return os.read(descriptor, 65536)
    return b""


def lines_of(done: Ended) -> list[Any]:
    return [json.loads(line) for line in done.out.splitlines()]


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


# Settings


async def test_settings_that_were_got_can_be_put_back(bridge: str, tmp_path: Path) -> None:
    got = await run("settings", "get", "--url", bridge, cwd=tmp_path)
    assert got.code == 0
    (tmp_path / "s.json").write_bytes(got.out)
    put = await run("settings", "put", "s.json", "--yes", "--url", bridge, cwd=tmp_path)
    assert put.code == 0
    assert "nothing to change" in put.err
    assert (put.out, got.err) == (b"", "")


async def test_a_put_shows_what_changes_and_changes_it(bridge: str, tmp_path: Path) -> None:
    got = await run("settings", "get", "--url", bridge, cwd=tmp_path)
    settings = {**json.loads(got.out), "enabled": False}
    file = written(tmp_path / "s.json", settings)
    put = await run("settings", "put", file, "--yes", "--json", "--url", bridge, cwd=tmp_path)
    assert put.code == 0
    assert '-  "enabled": true' in put.err
    assert '+  "enabled": false' in put.err
    assert json.loads(put.out) == settings
    again = await run("settings", "get", "--json", "--url", bridge, cwd=tmp_path)
    assert lines_of(again) == [settings]


async def test_provided_mappings_are_shown_when_asked_for(bridge: str, tmp_path: Path) -> None:
    plain = await run("settings", "get", "--url", bridge, cwd=tmp_path)
    provided = await run("settings", "get", "--provided", "--url", bridge, cwd=tmp_path)
    name = b"ip__ecomm_bridge__source_store_id"
    assert name not in plain.out
    assert name in provided.out


@pytest.mark.parametrize("how", [("put", "s.json"), ("delete",)])
async def test_where_nobody_can_be_asked_nothing_is_sent(
    how: tuple[str, ...], tmp_path: Path
) -> None:
    written(tmp_path / "s.json", {"enabled": False})
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.json_response({})

    async with serving(handler) as url:
        done = await run("settings", *how, "--url", url, cwd=tmp_path)
    assert done.code == 2
    assert "--yes" in done.err
    assert asked == []


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"n\n", 2)])
async def test_a_put_asks_a_person(bridge: str, tmp_path: Path, typed: bytes, code: int) -> None:
    got = await run("settings", "get", "--url", bridge, cwd=tmp_path)
    file = written(tmp_path / "s.json", {**json.loads(got.out), "enabled": False})
    done = await on_terminal("settings", "put", file, "--url", bridge, cwd=tmp_path, typed=typed)
    assert (done.code, done.out) == (code, b"")
    assert "Replace the settings?" in done.err
    again = await run("settings", "get", "--url", bridge, cwd=tmp_path)
    assert json.loads(again.out)["enabled"] is (code == 2)


async def test_a_delete_warns_and_names_what_can_be_undone(bridge: str, tmp_path: Path) -> None:
    no = await on_terminal("settings", "delete", "--url", bridge, cwd=tmp_path, typed=b"n\n")
    assert no.code == 2
    for done in (no, await run("settings", "delete", "--yes", "--url", bridge, cwd=tmp_path)):
        assert "cannot be undone" in done.err
        assert '"enabled": false' in done.err
    gone = await run("settings", "get", "--url", bridge, cwd=tmp_path)
    assert gone.code == 1
    assert "404" in gone.err
    assert "correlationId" in gone.err


async def test_settings_that_are_not_there_can_be_put(bridge: str, tmp_path: Path) -> None:
    await run("settings", "delete", "--yes", "--url", bridge, cwd=tmp_path)
    file = written(tmp_path / "s.json", {"enabled": True, "webhookUri": None, "mappings": {}})
    done = await run("settings", "put", file, "--yes", "--url", bridge, cwd=tmp_path)
    assert done.code == 0, done.err
    assert '+  "enabled": true' in done.err


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\x00", "[" * 100_000])
async def test_a_file_that_holds_no_settings_is_the_callers_error(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "s.json").write_text(text)
    done = await run(
        "settings", "put", "s.json", "--yes", "--url", "http://127.0.0.1:9", cwd=tmp_path
    )
    assert done.code == 2, done.err


async def test_an_application_is_asked_about_with_the_developers_key(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append({**request.query, "auth": request.headers.get("Authorization", "")})
        return web.json_response({"enabled": True})

    env = {"PUSHER_TOKEN": TOKEN, "PUSHER_DEVELOPER_KEY": KEY}
    async with serving(handler) as url:
        app = await run("settings", "get", "--app-id", "7", "--url", url, cwd=tmp_path, env=env)
        account = await run("settings", "get", "--url", url, cwd=tmp_path, env=env)
    assert (app.code, account.code) == (0, 0)
    assert asked == [
        {"appId": "7", "hapikey": KEY, "auth": ""},
        {"auth": f"Bearer {TOKEN}"},
    ]


async def test_a_developers_key_alone_wants_an_application(tmp_path: Path) -> None:
    done = await run("settings", "get", "--url", "http://h", "--developer-key", KEY, cwd=tmp_path)
    assert done.code == 2
    assert "--app-id" in done.err


# Stores


async def test_a_store_is_put_got_listed_and_deleted(bridge: str, tmp_path: Path) -> None:
    at = ("--url", bridge)
    given = ("--id", "shop/1", "--label", "Shop", "--admin-uri", "shop.example")
    store = {"id": "shop/1", "label": "Shop", "adminUri": "shop.example"}
    put = await run("stores", "put", *given, "--json", *at, cwd=tmp_path)
    assert (put.code, lines_of(put)) == (0, [store])
    got = await run("stores", "get", "shop/1", *at, cwd=tmp_path)
    assert (got.code, json.loads(got.out)) == (0, store)
    listed = await run("stores", "list", *at, cwd=tmp_path)
    assert store in lines_of(listed)
    refused = await run("stores", "delete", "shop/1", *at, cwd=tmp_path)
    assert refused.code == 2
    deleted = await run("stores", "delete", "shop/1", "--yes", "--json", *at, cwd=tmp_path)
    assert (deleted.code, lines_of(deleted)) == (0, [{"deleted": True, "id": "shop/1"}])
    gone = await run("stores", "get", "shop/1", *at, cwd=tmp_path)
    assert gone.code == 1


async def test_a_store_that_was_got_can_be_put_back_from_a_file_or_a_pipe(
    bridge: str, tmp_path: Path
) -> None:
    got = await run("stores", "get", "northwind-europe", "--url", bridge, cwd=tmp_path)
    (tmp_path / "store.json").write_bytes(got.out)
    put = await run("stores", "put", "store.json", "--json", "--url", bridge, cwd=tmp_path)
    piped = await run("stores", "put", "-", "--json", "--url", bridge, cwd=tmp_path, stdin=got.out)
    assert lines_of(put) == lines_of(piped) == [json.loads(got.out)]


@pytest.mark.parametrize(
    "given", [(), ("--id", "x"), ("--label", "x"), ("s.json", "--id", "x"), ("missing.json",)]
)
async def test_a_store_that_is_not_fully_given_is_the_callers_error(
    given: tuple[str, ...], tmp_path: Path
) -> None:
    written(tmp_path / "s.json", {"id": "x", "label": "y"})
    done = await run("stores", "put", *given, "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert done.code == 2


async def test_stores_are_a_table_on_a_terminal(bridge: str, tmp_path: Path) -> None:
    done = await on_terminal("stores", "list", "--url", bridge, cwd=tmp_path, out_is_terminal=True)
    assert done.code == 0
    assert b"adminUri" in done.out
    assert b"Northwind Europe" in done.out
    assert b"{" not in done.out


# Status


async def push(url: str, cwd: Path, *entries: dict[str, Any]) -> None:
    done = await run("push", "--confirm", "0", "--url", url, cwd=cwd, stdin=ndjson(entries))
    assert done.code == 0, done.err


def product(number: int, **properties: str) -> dict[str, Any]:
    return message(number, storeId="default", properties=properties)


async def status(url: str, cwd: Path, external_id: str, *more: str) -> Ended:
    return await run("status", "PRODUCT", "default", external_id, *more, "--url", url, cwd=cwd)


async def test_the_status_of_a_processed_object_ends_with_0(bridge: str, tmp_path: Path) -> None:
    await push(bridge, tmp_path, product(1, product_name="Tea"))
    done = await status(bridge, tmp_path, "id1", "--wait", "20s")
    assert done.code == 0, done.err
    (found,) = lines_of(done)
    assert (found["externalObjectId"], found["errors"]) == ("id1", [])
    assert found["lastProcessedAt"] > 0


async def test_the_status_of_a_failed_object_ends_with_1(bridge: str, tmp_path: Path) -> None:
    await push(bridge, tmp_path, product(1))  # A product wants a name.
    done = await status(bridge, tmp_path, "id1", "--wait", "20s")
    assert done.code == 1
    assert "MISSING_REQUIRED_PROPERTY" in done.err
    assert lines_of(done)[0]["errors"]
    await push(bridge, tmp_path, {**product(1, product_name="Tea"), "changedAt": 1_700_000_000_000})
    async with asyncio.timeout(20):
        while (await status(bridge, tmp_path, "id1")).code != 0:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("wait", [(), ("--wait", "300ms")])
async def test_an_unknown_object_ends_with_4(
    bridge: str, tmp_path: Path, wait: tuple[str, ...]
) -> None:
    done = await status(bridge, tmp_path, "nothing", *wait, "--json")
    assert (done.code, done.out) == (4, b"null\n")
    assert "not known yet" in done.err


async def test_a_wait_ends_as_soon_as_the_object_is_known(tmp_path: Path) -> None:
    async with northwind_bridge("--processing-delay", "1s", cwd=tmp_path) as url:
        await push(url, tmp_path, product(1, product_name="Tea"))
        early = await status(url, tmp_path, "id1")
        done = await status(url, tmp_path, "id1", "--wait", "30s")
    assert (early.code, done.code) == (4, 0)


# Errors


async def test_all_errors_are_lines_in_a_pipe_newest_first(bridge: str, tmp_path: Path) -> None:
    await push(bridge, tmp_path, *(product(number) for number in range(450)))
    last = await status(bridge, tmp_path, "id449", "--wait", "20s")
    assert last.code == 1
    done = await run("errors", "--url", bridge, cwd=tmp_path)
    assert done.code == 0, done.err
    found = lines_of(done)
    assert {one["externalObjectId"] for one in found} == {f"id{number}" for number in range(450)}
    times = [one["erroredAt"] for one in found]
    assert times == sorted(times, reverse=True)
    few = await run("errors", "--limit", "3", "--json", "--url", bridge, cwd=tmp_path)
    assert lines_of(few) == found[:3]
    for none in (("--object-type", "DEAL"), ("--type", "INVALID_DEAL_STAGE")):
        other = await run("errors", *none, "--url", bridge, cwd=tmp_path)
        assert (other.code, other.out) == (0, b"")
    table = await on_terminal(
        "errors", "--limit", "2", "--url", bridge, cwd=tmp_path, out_is_terminal=True
    )
    assert table.code == 0
    assert table.out.count(b"MISSING_REQUIRED_PROPERTY") == 2
    assert b"errored at" in table.out


async def test_a_reader_that_has_seen_enough_gets_no_traceback(bridge: str, tmp_path: Path) -> None:
    await push(bridge, tmp_path, *(product(number) for number in range(450)))
    await status(bridge, tmp_path, "id449", "--wait", "20s")
    done = await run_shell(f"pusher errors --url {bridge} | head -n 1", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert len(lines_of(done)) == 1
    closed = await run_shell(f"pusher settings get --url {bridge} >&-", cwd=tmp_path)
    assert (closed.code, closed.err) == (0, "")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (("--token", TOKEN), "/sync/errors"),
        ((), "/sync/errors"),
        (("--api-key", API_KEY), "/sync/errors/portal"),
        (("--app-id", "7", "--developer-key", KEY), "/sync/errors/app/7"),
    ],
)
async def test_errors_are_asked_for_where_the_credentials_belong(
    given: tuple[str, ...], path: str, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"results": []})

    async with serving(handler) as url:
        done = await run("errors", *given, "--resolved", "--url", url, cwd=tmp_path)
    assert done.code == 0, done.err
    assert asked == ["/extensions/ecomm/v2" + path]


async def test_what_a_bridge_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    nasty = "[red]x[/red]\x1b]0;owned\x07\x1b[2J\u202e"

    async def handler(request: web.Request) -> web.Response:
        del request
        error = {"type": "X", "details": nasty, "externalObjectId": nasty, "erroredAt": "5"}
        return web.json_response({"results": [error]})

    async with serving(handler) as url:
        done = await on_terminal("errors", "--url", url, cwd=tmp_path, out_is_terminal=True)
    assert done.code == 0
    assert b"[red]x[/red]" in done.out
    assert b"\x1b]0;" not in done.out
    assert b"\x1b[2J" not in done.out
    assert "\u202e".encode() not in done.out


async def test_a_busy_bridge_is_asked_again(tmp_path: Path) -> None:
    answers = [web.json_response({"message": "slow"}, status=429, headers={"Retry-After": "0"})]

    async def handler(request: web.Request) -> web.Response:
        del request
        return answers.pop() if answers else web.json_response({"results": []})

    async with serving(handler) as url:
        done = await run("errors", "--url", url, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")


# How all of them end

COMMANDS = (
    ("settings", "get"),
    ("settings", "delete", "--yes"),
    ("stores", "list"),
    ("stores", "put", "--id", "a", "--label", "b"),
    ("status", "DEAL", "s", "1"),
    ("errors",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("status_code", "body", "code"),
    [(409, "{}", 1), (401, "{}", 3), (403, "{}", 3), (200, "<html>", 3), (302, "", 3)],
)
async def test_the_exit_code_says_who_has_to_act(
    command: tuple[str, ...], status_code: int, body: str, code: int
) -> None:
    async def handler(request: web.Request) -> web.Response:
        del request
        return web.Response(status=status_code, text=body)

    async with serving(handler) as url:
        done = await inside(*command, "--url", url, "--token", TOKEN)
    is_a_delete_that_worked = status_code == 200 and "delete" in command
    assert done.exit_code == (0 if is_a_delete_that_worked else code), done.stderr
    assert done.stdout == ""
    assert TOKEN not in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_an_endpoint_that_is_gone_ends_with_3(command: tuple[str, ...]) -> None:
    done = await inside(*command, "--url", "http://127.0.0.1:9")
    assert done.exit_code == 3
    assert "connect" in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--url", "ftp://h"),
        ("--url", "http://h", "--token", "a", "--api-key", "b"),
        ("--url", "http://h", "--token", ""),
        ("--url", "http://h", "--token", "a\tb"),
        ("--url", "http://h", "--token-file", "missing"),
    ],
    ids=["none", "scheme", "two", "empty", "tab", "file"],
)
async def test_a_wrong_connection_is_the_callers_error(
    command: tuple[str, ...], wrong: tuple[str, ...]
) -> None:
    done = await inside(*command, *wrong)
    assert (done.exit_code, done.stdout) == (2, "")


async def test_the_address_and_the_token_can_come_from_the_environment(
    bridge: str, tmp_path: Path
) -> None:
    env = {"PUSHER_URL": bridge, "PUSHER_TOKEN": TOKEN}
    done = await run("stores", "list", cwd=tmp_path, env=env)
    assert done.code == 0
