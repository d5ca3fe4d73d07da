"""`pusher push` as a command: its options, its streams, its secrets, its exit codes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from fakes.command import (
    NORTHWIND,
    PUSHER,
    Ended,
    ended,
    files_in,
    letters_in,
    message,
    ndjson,
    northwind_bridge,
    run,
    run_shell,
    starting,
)
from fakes.endpoint import Endpoint, Request, accept, refuse, until

from pusher.decoding import HAS_SCANNER

URL = ("--url", "http://127.0.0.1:9")
PUSH = ("--confirm", "0", "--report", "-")
SECRET = "s3cret/t0ken+x="


def lines(count: int) -> bytes:
    return ndjson(message(number) for number in range(count))


async def pushed(endpoint: Endpoint, stdin: bytes, cwd: Path, *arguments: str | Path) -> Ended:
    return await run("push", "--url", endpoint.url, *PUSH, *arguments, cwd=cwd, stdin=stdin)


# Usage.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "--url"),
        ((*URL, "--nonsense"), "--nonsense"),
        ((*URL, "--linger", "soon"), "soon"),
        ((*URL, "--linger", "-1s"), "-1s"),
        ((*URL, "--linger", "5 fortnights"), "fortnights"),
        ((*URL, "--max-age", ""), "--max-age"),
        ((*URL, "--drain-timeout", "inf"), "inf"),
        ((*URL, "--confirm-timeout", "1d"), "1d"),
        ((*URL, "--batch-bytes", "4 elephants"), "elephants"),
        ((*URL, "--batch-bytes", "0"), "--batch-bytes"),
        ((*URL, "--max-line", "-1"), "-1"),
        ((*URL, "--max-line", "0"), "--max-line"),
        ((*URL, "--batch-size", "0"), "--batch-size"),
        ((*URL, "--batch-size", "201"), "--batch-size"),
        ((*URL, "--batch-size", "many"), "many"),
        ((*URL, "--concurrency", "0"), "--concurrency"),
        ((*URL, "--rate", "0"), "--rate"),
        ((*URL, "--rate", "nan"), "--rate"),
        ((*URL, "--rate", "inf"), "--rate"),
        ((*URL, "--confirm-rate", "-3"), "--confirm-rate"),
        ((*URL, "--confirm", "some"), "some"),
        ((*URL, "--confirm", "101%"), "101%"),
        ((*URL, "--confirm", "-1"), "-1"),
        ((*URL, "--confirm", "nan%"), "nan%"),
        ((*URL, "--order", "random"), "random"),
        ((*URL, "--type", "COMPANY"), "COMPANY"),
        ((*URL, "--store", ""), "--store"),
        ((*URL, "--progress", "always"), "always"),
        ((*URL, "--log-format", "xml"), "xml"),
        ((*URL, "--phases", "kafka://h:1/t?group=g"), "--phases is for files and pipes"),
        ((*URL, "--keep-spool", "empty"), "--keep-spool is for pipes"),
        ((*URL, "--phases", "--spool-dir", "nowhere"), "--spool-dir: nowhere is not a directory"),
        ((*URL, "--spool-max", "0"), "--spool-max"),
        ((*URL, "--token", "a", "--api-key", "b"), "a token or an API key, not both"),
        ((*URL, "--token", "a", "--token-file", "token"), "--token"),
        ((*URL, "--token", ""), "--token is empty"),
        ((*URL, "--token", "two\nlines"), "printable ASCII"),
        ((*URL, "--token-file", "missing"), "missing: No such file"),
        ((*URL, "--token-file", "empty"), "empty"),
        ((*URL, "--api-key-file", "."), "Is a directory"),
        ((*URL, "--dead-letters", "nowhere/dead.ndjson"), "nowhere"),
        ((*URL, "--dead-letters", "."), "directory"),
        ((*URL, "--report", "nowhere/report.json"), "--report: nowhere is not a directory"),
        ((*URL, "--report", "."), "--report"),
    ],
)
async def test_a_command_line_that_makes_no_sense_is_exit_2_and_says_why(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "empty").write_text("")
    result = await run("push", *arguments, cwd=tmp_path, stdin=b"", within_s=15)
    assert result.code == 2
    assert result.out == b""
    last_line = result.err.rstrip().splitlines()[-1]
    assert last_line.startswith("Error: ")
    assert complaint in last_line
    assert files_in(tmp_path) == ["empty", "token"]


async def test_an_unknown_command_is_exit_2(tmp_path: Path) -> None:
    result = await run("shove", cwd=tmp_path)
    assert result.code == 2
    assert "shove" in result.err


def documented_options(text: str) -> set[str]:
    return set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", text, re.MULTILINE)) - {"--help"}


VALUES: dict[str, str | None] = {
    "--url": "(the endpoint's)",
    "--token": "flag-token",
    "--token-file": "secret",
    "--api-key": "flag-key",
    "--api-key-file": "secret",
    "--store": "shop",
    "--type": "DEAL",
    "--phases": None,
    "--repair": "0",
    "--spool-dir": ".",
    "--spool-max": "1GiB",
    "--order": "none",
    "--batch-size": "7",
    "--batch-bytes": "1KiB",
    "--linger": "200ms",
    "--max-age": "1m",
    "--max-line": "1MB",
    "--format": "ndjson",
    "--metrics-port": "0",
    "--metrics-host": "127.0.0.1",
    "--concurrency": "3",
    "--rate": "1000",
    "--drain-timeout": "1h",
    "--timeout": "30s",
    "--connect-timeout": "5s",
    "--header": "X-Team: shops",
    "--max-attempts": "3",
    "--give-up-after": "1m",
    "--memory": "16MiB",
    "--max-lag": "1GB",
    "--no-preflight": None,
    "--only-type": "PRODUCT",
    "--only-store": "s1",
    "--limit": "1000",
    "--max-rejected": "50%",
    "--expect": "20",
    "--checkpoint": "checkpoint",
    "--confirm": "5",
    "--confirm-rate": "100",
    "--confirm-timeout": "10s",
    "--sample-out": "sample.ndjson",
    "--yes": None,
    "--ledger": "ledger.ndjson",
    "--dead-letters": "letters.ndjson",
    "--report": "report.json",
    "--html": "report.html",
    "--progress": "never",
    "--quiet": None,
    "--verbose": None,
    "--log-format": "json",
}
CREDENTIALS = {"--token", "--token-file", "--api-key", "--api-key-file"}
ELSEWHERE = {
    "--ca-file",
    "--client-cert",
    "--client-id",
    "--client-key",
    "--client-secret",
    "--client-secret-file",
    "--config",
    "--keep-spool",
    "--confirm-window",
    "--dead-letters-topic",
    "--dry-run",
    "--group-instance",
    "--group-protocol",
    "--kafka-config",
    "--map",
    "--profile",
    "--refresh-token",
    "--refresh-token-file",
    "--token-url",
    "--until",
}
"""Options that want an endpoint or an input of their own kind; they have tests of their own."""


async def test_every_documented_option_is_taken_and_no_other_is_documented(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    text = (await run("push", "--help", cwd=tmp_path)).out.decode()
    given = {option.replace("--no-preflight", "--preflight") for option in VALUES}
    assert documented_options(text) == given | ELSEWHERE
    (tmp_path / "secret").write_text("from-the-file\nnot this\n")
    (tmp_path / "in").write_bytes(lines(20))
    for credential in CREDENTIALS:
        flags: list[str] = []
        for option, value in {**VALUES, "--url": endpoint.url}.items():
            if option not in CREDENTIALS - {credential}:
                flags += [option] if value is None else [option, value]
        (tmp_path / "checkpoint").unlink(missing_ok=True)
        result = await run("push", "in", *flags, cwd=tmp_path)
        assert (result.code, result.out) == (0, b""), (credential, result.err)
        report = json.loads((tmp_path / "report.json").read_bytes())
        assert report["messages"]["delivered"] == 20
    seen = {
        request.headers.get("Authorization") or request.query["hapikey"]
        for request in endpoint.requests
    }
    assert seen == {"Bearer flag-token", "Bearer from-the-file", "flag-key", "from-the-file"}


async def test_every_documented_option_can_be_set_in_the_environment(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(lines(20) + b"oops\n" + ndjson([{"externalObjectId": "x"}]))
    env = {
        "PUSHER_" + option[2:].upper().replace("-", "_"): "1" if value is None else value
        for option, value in {**VALUES, "--url": endpoint.url}.items()
        if option not in CREDENTIALS - {"--api-key"}
    }
    env["PUSHER_PREFLIGHT"] = "0"
    env["PUSHER_EXPECT"] = "22"
    env["PUSHER_ONLY_STORE"], env["PUSHER_ONLY_TYPE"] = "s1 shop", "PRODUCT DEAL"
    result = await run("push", "in", cwd=tmp_path, env=env)
    assert result.code == 1, result.err
    assert result.out == b""
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report["messages"]["delivered"] == 21
    assert report["dead_letters"] == "letters.ndjson"
    assert len(report["phases"]) == 3
    assert report["in_flight"]["limit"] == 3
    assert report["confirmation"]["sampled"] < 20
    assert max(len(request.ids) for request in endpoint.requests) == 7
    assert ("shop", "DEAL") in {request.lane for request in endpoint.requests}
    assert {request.query["hapikey"] for request in endpoint.requests} == {"flag-key"}


@pytest.mark.parametrize(
    ("name", "value"), [("QUIET", "1"), ("VERBOSE", "1"), ("LOG_FORMAT", "json")]
)
async def test_what_is_said_on_stderr_can_be_set_in_the_environment(
    name: str, value: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    """The help says that every option can be."""

    async def fail_first(request: Request) -> web.StreamResponse:
        return web.Response(status=503) if request.number == 0 else await accept(request)

    endpoint.answer = fail_first
    arguments = ("push", "--url", endpoint.url, *PUSH)
    env = {f"PUSHER_{name}": value}
    result = await run(*arguments, cwd=tmp_path, stdin=lines(1), env=env)
    assert result.code == 0
    if name == "QUIET":
        assert result.err == ""
    elif name == "VERBOSE":
        assert "attempt 1" in result.err
    else:
        assert result.err.startswith("{")


async def test_a_flag_wins_over_the_environment(endpoint: Endpoint, tmp_path: Path) -> None:
    env = {"PUSHER_URL": "http://127.0.0.1:9", "PUSHER_BATCH_SIZE": "5", "PUSHER_CONFIRM": "3"}
    arguments = ("push", "--url", endpoint.url, "--batch-size", "10", *PUSH)
    result = await run(*arguments, cwd=tmp_path, stdin=lines(30), env=env)
    assert result.code == 0
    assert [len(request.ids) for request in endpoint.requests] == [10, 10, 10]
    assert endpoint.status_requests == []


async def test_the_version_is_quick_and_loads_nothing_heavy(tmp_path: Path) -> None:
    argv = (sys.executable, "-X", "importtime", "-m", "pusher", "--version")
    async with starting(*argv, cwd=tmp_path) as process:
        shown = await ended(process, within_s=10)
    loaded = {line.rpartition("|")[2].strip() for line in shown.err.splitlines()}
    assert "click" in loaded
    for heavy in ("aiohttp", "anyio", "uvloop", "msgspec", "orjson", "rich", "isal", "zstandard"):
        assert heavy not in loaded
    assert not {name for name in loaded if name.startswith("pusher.bridge")}
    assert re.fullmatch(rb"pusher, version \d+\.\d+\.\S+\nscanner: .*compiled.*\n", shown.out)
    assert (b"scanner: compiled\n" in shown.out) is HAS_SCANNER
    times_s = []
    for _ in range(5):
        started_s = time.perf_counter()
        subprocess.run(  # noqa: ASYNC221 - nothing else is to run meanwhile
            [*PUSHER, "--version"], check=True, capture_output=True, timeout=10
        )
        times_s.append(time.perf_counter() - started_s)
    assert min(times_s) < 0.2


async def test_the_help_says_what_a_user_needs_to_know(tmp_path: Path) -> None:
    whole, push = [
        (await run(*arguments, cwd=tmp_path)).out.decode()
        for arguments in (("-h",), ("push", "--help"))
    ]
    for command in ("push", "replay", "bridge", "demo", "generate"):
        assert re.search(rf"^  {command} ", whole, re.MULTILINE)
    flat = " ".join(push.split())
    assert flat.count("Visible in `ps`") == 5
    for code in ("0 all delivered", "1 some messages", "2 usage", "3 stopped", "4 all delivered"):
        assert code in flat
    assert "130, 143" in flat


# Secrets.

UNAUTHORISED = "unauthorised, and the endpoint repeats the credentials"


async def answer_badly(kind: str, request: Request) -> web.StreamResponse:
    """Say the credentials back, as HubSpot does: "This hapikey (x) doesn't exist"."""
    shown = request.headers.get("Authorization", "") + request.query.get("hapikey", "")
    address = f"{request.query}"
    if kind == UNAUTHORISED:
        return refuse(401, f"This hapikey ({shown}) does not exist, {quote(shown)}, {address}")
    if kind == "refused":
        if request.number == 0 or len(request.ids) > 1 or request.ids == ["id1"]:
            return refuse(400, f"{shown} {quote(shown)} {quote(shown, safe='')} {address}")
        return await accept(request)
    if kind == "html":
        return web.Response(text=f"<html>{shown}</html>", content_type="text/html")
    if kind == "redirected":
        return web.Response(status=302, text=shown, headers={"Location": f"/?{shown}"})
    if kind == "failed" and request.number < 2:
        return web.Response(status=503, text=shown)
    return await accept(request)


@pytest.mark.parametrize("kind", ["ok", "refused", UNAUTHORISED, "html", "redirected", "failed"])
@pytest.mark.parametrize("way", ["--token", "--api-key", "PUSHER_TOKEN", "PUSHER_API_KEY", "file"])
async def test_a_secret_is_shown_nowhere(
    kind: str, way: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.answer = lambda request: answer_badly(kind, request)
    flags: tuple[str | Path, ...] = ("-v",)
    env = {}
    if way.startswith("--"):
        flags += (way, SECRET)
    elif way == "file":
        secret_file = tmp_path.parent / f"{tmp_path.name}.token"
        secret_file.write_text(SECRET + "\n")
        flags += ("--token-file", secret_file)
    else:
        env[way] = SECRET
    arguments = ("push", "--url", endpoint.url, *PUSH, *flags)
    result = await run(*arguments, cwd=tmp_path, stdin=lines(4) + b"oops\n", env=env)
    first = endpoint.requests[0]
    if "api" in way.lower():
        assert first.query["hapikey"] == SECRET
    else:
        assert first.headers["Authorization"] == f"Bearer {SECRET}"
    wanted = {"ok": 1, "refused": 1, "failed": 1, UNAUTHORISED: 3, "html": 3, "redirected": 3}
    assert result.code == wanted[kind]
    assert_nothing_shown(result, tmp_path)


@pytest.mark.parametrize("token", ["t", "1", "PRODUCT"])
async def test_a_token_that_is_a_part_of_what_the_endpoint_says_does_not_garble_it(
    token: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    flags = ("--token", token, "--confirm", "100%", "--confirm-timeout", "2s")
    result = await pushed(endpoint, lines(3), tmp_path, *flags)
    assert result.code == 0, result.err
    assert result.report["confirmation"]["confirmed"] == 3


async def test_a_secret_is_not_shown_when_nobody_answers(tmp_path: Path) -> None:
    """It would give up only after many attempts, so it is stopped; -v tells each attempt."""
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()
    argv = (
        *PUSHER,
        "push",
        "--url",
        url,
        "--api-key",
        SECRET,
        "-v",
        "--no-preflight",
        *PUSH,
        "--drain-timeout",
        "0s",
    )
    async with starting(*argv, cwd=tmp_path, stdin=PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(lines(2))
        process.stdin.close()
        async with asyncio.timeout(10):
            told = (await process.stderr.readline()).decode()
        assert "connect" in told
        process.terminate()
        out, err = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode is not None
    assert_nothing_shown(Ended(process.returncode, out, told + err.decode()), tmp_path)


def assert_nothing_shown(result: Ended, folder: Path) -> None:
    written = "".join(
        path.read_text("utf-8", "replace") for path in folder.iterdir() if path.is_file()
    )
    for place in (result.out.decode(), result.err, written):
        for form in (SECRET, quote(SECRET), quote(SECRET, safe=""), json.dumps(SECRET)[1:-1]):
            assert form not in place


# The standard streams.


async def test_a_report_into_a_closed_pipe_is_no_traceback(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(lines(3))
    script = 'pusher push in "$@" --report - | true; echo "${PIPESTATUS[0]}"'
    result = await run_shell(script, "--url", endpoint.url, "--confirm", "0", cwd=tmp_path)
    assert result.out == b"0\n"
    assert result.err.startswith("delivered: 3 of 3 messages")
    assert "Broken pipe" not in result.err
    assert "Exception ignored" not in result.err


@pytest.mark.parametrize("end", ["2>&-", "2> >(exec true)", "2>/dev/full"])
@pytest.mark.parametrize("flags", [("-v",), ("-v", "--log-format", "json"), ()])
async def test_a_stderr_that_nobody_reads_does_not_stop_a_run(
    end: str, flags: tuple[str, ...], endpoint: Endpoint, tmp_path: Path
) -> None:
    async def fail_first(request: Request) -> web.StreamResponse:
        if request.number == 0:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return await accept(request)

    endpoint.answer = fail_first
    (tmp_path / "in").write_bytes(lines(300) + b"oops\n")
    script = f'pusher push in "$@" --report report.json {end}; echo $?'
    arguments = ("--url", endpoint.url, "--confirm", "0", *flags)
    result = await run_shell(script, *arguments, cwd=tmp_path)
    assert result.out == b"1\n"
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report["messages"]["delivered"] == len(endpoint.delivered) == 300
    assert report["exit_code"] == 1


async def test_a_stderr_whose_reader_is_gone_does_not_stop_a_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The pipe is broken from the start, so not one write can get through."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        arguments = ("push", "--url", endpoint.url, *PUSH, "-v")
        result = await run(*arguments, cwd=tmp_path, stdin=lines(5) + b"oops", stderr=writing)
    finally:
        os.close(writing)
    assert result.code == 1
    assert result.counts() == (6, 5, 1, 0)


async def test_a_closed_stdin_is_a_clear_error(endpoint: Endpoint, tmp_path: Path) -> None:
    script = 'pusher push --url "$1" --dead-letters dead <&-'
    result = await run_shell(script, endpoint.url, cwd=tmp_path)
    assert result.code == 2
    assert result.err.splitlines()[-1] == "Error: standard input is closed"
    assert endpoint.requests == []


async def test_a_closed_stdin_does_not_matter_when_a_file_is_read(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(lines(300) + b"oops\n")
    script = 'pusher push in --url "$1" --confirm 0 --report - <&-'
    result = await run_shell(script, endpoint.url, cwd=tmp_path)
    assert result.counts() == (301, 300, 1, 0)
    assert [letter["record"] for letter in letters_in(tmp_path)] == ["oops"]


@pytest.mark.parametrize("report", ["-", "report.json"])
async def test_a_closed_stdout_does_no_harm(
    report: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(lines(300) + b"oops\n")
    script = 'pusher push in --url "$1" --confirm 0 --report "$2" >&-'
    result = await run_shell(script, endpoint.url, report, cwd=tmp_path)
    assert result.code == 1
    assert len(endpoint.delivered) == 300
    assert [letter["record"] for letter in letters_in(tmp_path)] == ["oops"]
    if report != "-":
        written = json.loads((tmp_path / report).read_bytes())
        assert written["messages"]["delivered"] == 300


async def test_all_streams_closed_is_survived(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(3) + b"oops\n")
    script = 'pusher push in --url "$1" --confirm 0 --report report.json <&- >&- 2>&-'
    result = await run_shell(script, endpoint.url, cwd=tmp_path)
    assert result.code == 1
    assert json.loads((tmp_path / "report.json").read_bytes())["messages"]["delivered"] == 3
    assert [letter["record"] for letter in letters_in(tmp_path)] == ["oops"]


async def test_a_report_that_cannot_be_written_is_exit_3(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    arguments = ("push", "--url", endpoint.url, "--confirm", "0", "--report", "/dev/full")
    result = await run(*arguments, cwd=tmp_path, stdin=lines(3))
    assert result.code == 3
    assert len(endpoint.delivered) == 3
    assert result.err.splitlines()[-1].endswith("--report: /dev/full: No space left on device")


async def test_a_report_to_a_full_stdout_is_exit_3(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(lines(3))
    script = 'pusher push in --url "$1" --confirm 0 --report - >/dev/full'
    result = await run_shell(script, endpoint.url, cwd=tmp_path)
    assert result.code == 3
    assert result.err.splitlines()[-1].endswith("No space left on device")


async def test_dead_letters_that_cannot_be_written_stop_the_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    stdin = lines(3) + b"oops\n" + lines(2)
    result = await pushed(endpoint, stdin, tmp_path, "--dead-letters", "/dev/full")
    report = result.report
    assert (report["outcome"], result.code) == ("stopped", 3)
    assert report["messages"]["rejected"] == 0
    assert report["messages"]["pending"] >= 1
    assert report["messages"]["delivered"] == len(endpoint.delivered)
    assert report["reason"] == "/dev/full: dead letters: No space left on device"
    assert report["reason"] in result.err
    assert report["dead_letters"] is None


async def test_a_disk_that_fills_up_leaves_whole_letters_only(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The file may grow to 2 KiB; of the letters, exactly those on the disk are rejected."""
    chunk = 256 << 10
    stdin = b"".join(b"oops\n" + b" " * chunk + b"\n" + lines(1) for _ in range(12))
    (tmp_path / "in").write_bytes(stdin)
    script = 'ulimit -f 2; pusher push in "$@" 2>err | cat; exit "${PIPESTATUS[0]}"'
    result = await run_shell(script, "--url", endpoint.url, *PUSH, cwd=tmp_path)
    assert result.code == 3
    assert result.report["messages"]["rejected"] == len(letters_in(tmp_path)) > 0
    assert result.report["messages"]["pending"] > 0
    assert "File too large" in result.report["reason"]


# What is said on stderr.


async def test_quiet_says_nothing_on_success(endpoint: Endpoint, tmp_path: Path) -> None:
    arguments = ("push", "--url", endpoint.url, "-q", "--confirm", "0")
    result = await run(*arguments, cwd=tmp_path, stdin=lines(3))
    assert (result.code, result.out, result.err) == (0, b"", "")
    assert files_in(tmp_path) == []


async def test_quiet_still_says_what_went_wrong(endpoint: Endpoint, tmp_path: Path) -> None:
    arguments = ("push", "--url", endpoint.url, "-q", "--confirm", "0")
    result = await run(*arguments, cwd=tmp_path, stdin=lines(3) + b"oops")
    assert (result.code, result.out) == (1, b"")
    assert "1 rejected (1 not_json)" in result.err


async def test_verbose_tells_retries_and_splits(endpoint: Endpoint, tmp_path: Path) -> None:
    async def be_difficult(request: Request) -> web.StreamResponse:
        if request.number == 0:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return refuse(400, "no good") if "id3" in request.ids else await accept(request)

    endpoint.answer = be_difficult
    loud = await pushed(endpoint, lines(8), tmp_path, "-v")
    assert loud.counts() == (8, 7, 1, 0)
    assert "s1 PRODUCT: attempt 1 with 8 messages: HTTP 503" in loud.err
    assert "8 messages refused, taken apart" in loud.err
    endpoint.requests.clear()
    plain = await pushed(endpoint, lines(8), tmp_path)
    assert plain.counts() == (8, 7, 1, 0)
    assert "attempt 1" not in plain.err


async def test_the_json_log_is_json_on_every_line(endpoint: Endpoint, tmp_path: Path) -> None:
    async def fail_first(request: Request) -> web.StreamResponse:
        return web.Response(status=503) if request.number == 0 else await accept(request)

    endpoint.answer = fail_first
    stdin = ndjson([message(1, changedAt=1_600_000_000)]) + b"oops\n"
    result = await pushed(endpoint, stdin, tmp_path, "-v", "--log-format", "json")
    entries = [json.loads(line) for line in result.err.splitlines()]
    assert {entry["level"] for entry in entries} >= {"debug", "warning"}
    for entry in entries:
        assert entry["message"]
        assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$", entry["at"])


async def test_progress_lines_come_on_a_pipe_unless_they_are_not_wanted(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """Three runs at a stalled endpoint: one as it is, one with JSON, one that must stay silent."""
    released = asyncio.Event()

    async def stall(request: Request) -> web.StreamResponse:
        await released.wait()
        return await accept(request)

    endpoint.answer = stall
    (tmp_path / "in").write_bytes(lines(3))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, *PUSH)
    async with (
        starting(*argv, "--progress", "never", cwd=tmp_path) as silent,
        starting(*argv, cwd=tmp_path) as plain,
        starting(*argv, "--log-format", "json", cwd=tmp_path) as structured,
    ):
        assert plain.stderr is not None
        assert structured.stderr is not None
        async with asyncio.timeout(15):
            line = (await plain.stderr.readline()).decode()
            fields = json.loads(await structured.stderr.readline())
        assert re.match(r"pusher: pushing: .*0 delivered, .*1 in flight", line)
        assert (fields["delivered"], fields["in_flight"]) == (0, 1)
        assert fields["stage"] == "pushing"
        released.set()
        for process in (plain, structured):
            assert (await ended(process, within_s=10)).code == 0
        result = await ended(silent, within_s=10)
    assert result.code == 0
    assert result.err.startswith("delivered: 3 of 3 messages")


async def test_what_is_odd_in_the_input_is_warned_about_once(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    odd = [message(n, changedAt=1_600_000_000 + n, properties={"n": None}) for n in range(50)]
    result = await pushed(endpoint, ndjson(odd), tmp_path)
    assert result.code == 0
    assert result.err.count("looks like seconds") == 1
    assert result.err.count("null property values") == 1
    assert len(result.report["warnings"]) == 2


# What the options do.


async def test_a_batch_has_at_most_its_size(endpoint: Endpoint, tmp_path: Path) -> None:
    result = await pushed(endpoint, lines(30), tmp_path, "--batch-size", "7")
    assert result.counts() == (30, 30, 0, 0)
    assert sorted(len(request.ids) for request in endpoint.requests) == [2, 7, 7, 7, 7]


async def test_a_batch_has_at_most_its_bytes_and_a_larger_message_goes_alone(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    entries = [message(n, properties={"n": "x" * 400}) for n in range(20)]
    entries[9]["properties"]["n"] = "x" * 5000
    result = await pushed(endpoint, ndjson(entries), tmp_path, "--batch-bytes", "2KiB")
    assert result.counts() == (20, 20, 0, 0)
    for request in endpoint.requests:
        assert int(request.headers["Content-Length"]) <= 2048 or request.ids == ["id9"]
    assert len(endpoint.requests) < 12


@pytest.mark.parametrize(("order", "at_once"), [("none", 3), ("key", 1)])
async def test_messages_of_one_object_go_at_once_only_without_order(
    order: str, at_once: int, endpoint: Endpoint, tmp_path: Path
) -> None:
    async def wait_for_company(request: Request) -> web.StreamResponse:
        if order == "none":
            await until(lambda: endpoint.in_flight_max == 3)
        else:
            await asyncio.sleep(0.05)  # Time enough for the next one, if it were sent.
        return await accept(request)

    endpoint.answer = wait_for_company
    changes = [message(1, changedAt=1_600_000_000_000 + n) for n in range(3)]
    flags = ("--order", order, "--batch-size", "1", "--concurrency", "3")
    result = await pushed(endpoint, ndjson(changes), tmp_path, *flags)
    assert result.counts() == (3, 3, 0, 0)
    assert endpoint.in_flight_max == at_once
    assert bool(endpoint.overlapping_objects) == (order == "none")
    if order == "key":
        times = [entry["changedAt"] for entry in endpoint.delivered]
        assert times == sorted(times)


async def test_never_more_requests_are_in_flight_than_allowed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def wait_for_company(request: Request) -> web.StreamResponse:
        if request.number < 3:
            await until(lambda: endpoint.in_flight_max >= 3)
        await asyncio.sleep(0.01)
        return await accept(request)

    endpoint.answer = wait_for_company
    flags = ("--concurrency", "3", "--batch-size", "2")
    result = await pushed(endpoint, lines(100), tmp_path, *flags)
    assert result.counts() == (100, 100, 0, 0)
    assert endpoint.in_flight_max == 3
    assert result.report["in_flight"] == {"max": 3, "limit": 3}


async def test_a_rate_spreads_the_requests(endpoint: Endpoint, tmp_path: Path) -> None:
    flags = ("--rate", "20", "--batch-size", "1")
    result = await pushed(endpoint, lines(50), tmp_path, *flags)
    assert result.counts() == (50, 50, 0, 0)
    times_s = [request.at_s for request in endpoint.requests]
    for at_s in times_s:
        assert sum(at_s <= other_s < at_s + 1 for other_s in times_s) <= 23
    assert 49 / 20 * 0.95 <= times_s[-1] - times_s[0] < 49 / 20 * 2


async def test_confirm_0_asks_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    result = await pushed(endpoint, lines(300), tmp_path, "--confirm", "0")
    assert result.code == 0
    assert endpoint.status_requests == []
    confirmation = result.report["confirmation"]
    assert confirmation["sampled"] == 0
    assert confirmation["failure_rate_upper_bound_95"] is None


async def test_a_share_can_be_confirmed(endpoint: Endpoint, tmp_path: Path) -> None:
    result = await pushed(endpoint, lines(2000), tmp_path, "--confirm", "10%")
    assert result.code == 0
    confirmation = result.report["confirmation"]
    assert 120 < confirmation["sampled"] < 290
    assert confirmation["confirmed"] == confirmation["sampled"]
    assert len(set(endpoint.status_requests)) == confirmation["sampled"]


@pytest.mark.parametrize("sample", ["100%", "2000"])
async def test_everything_can_be_confirmed(sample: str, endpoint: Endpoint, tmp_path: Path) -> None:
    result = await pushed(endpoint, lines(250), tmp_path, "--confirm", sample)
    assert result.code == 0
    assert result.report["confirmation"]["confirmed"] == 250
    assert len(set(endpoint.status_requests)) == 250


async def test_what_is_not_processed_in_time_is_unconfirmed_and_exit_4(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.processed_at_ms = lambda _lane, external_id: (
        None if external_id == "id7" else int(time.time() * 1000)
    )
    flags = ("--confirm", "100%", "--confirm-timeout", "1s")
    result = await pushed(endpoint, lines(20), tmp_path, *flags)
    assert result.code == 4
    assert result.report["outcome"] == "unconfirmed"
    assert result.counts() == (20, 20, 0, 0)
    confirmation = result.report["confirmation"]
    assert (confirmation["confirmed"], confirmation["unconfirmed"]) == (19, 1)
    assert "1 unconfirmed" in result.err


async def test_the_status_is_polled_no_faster_than_its_rate(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    flags = ("--confirm", "20", "--confirm-rate", "10")
    started_s = time.monotonic()
    result = await pushed(endpoint, lines(20), tmp_path, *flags)
    assert result.code == 0
    assert time.monotonic() - started_s > 19 / 10 * 0.95
    assert len(endpoint.status_requests) == 20


async def test_the_report_goes_to_a_file_and_replaces_what_was_there(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    path.write_text("x" * 100_000)
    arguments = ("push", "--url", endpoint.url, "--confirm", "0", "--report", path)
    result = await run(*arguments, cwd=tmp_path, stdin=lines(3))
    assert (result.code, result.out) == (0, b"")
    report = json.loads(path.read_bytes())
    assert report["messages"]["delivered"] == 3
    assert report["run_id"]


async def test_the_report_has_every_key_that_is_promised(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    report = (await pushed(endpoint, lines(3) + b"oops", tmp_path)).report
    assert {
        "outcome", "exit_code", "reason", "run_id", "messages", "skipped", "rejected", "requests",
        "bytes", "elapsed_s", "messages_per_s", "latency_ms", "in_flight", "lanes", "lanes_total",
        "confirmation", "dead_letters", "checkpoint",
    } <= report.keys()  # fmt: skip
    assert report["messages"].keys() == {
        "read", "delivered", "rejected", "skipped", "pending", "resumed",
    }  # fmt: skip
    assert report["requests"].keys() >= {
        "sent", "accepted", "retried", "split", "ambiguous", "by_status",
    }  # fmt: skip
    assert report["bytes"]["read"] == len(lines(3) + b"oops")
    sent = sum(int(request.headers["Content-Length"]) for request in endpoint.requests)
    assert report["bytes"]["sent"] == sent
    assert report["latency_ms"].keys() == {"p50", "p90", "p99", "p999", "max"}
    assert report["lanes"] == [
        {
            "store_id": "s1",
            "object_type": "PRODUCT",
            "delivered": 3,
            "rejected": 0,
            "parked": 0,
            "batches": 1,
        }
    ]


async def test_a_limit_that_is_reached_ends_a_run_on_a_quiet_pipe(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    argv = (*PUSHER, "push", "--url", endpoint.url, "--limit", "3", *PUSH)
    async with starting(*argv, cwd=tmp_path, stdin=PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(lines(5))
        async with asyncio.timeout(20):
            await process.wait()
        assert process.stdout is not None
        report = json.loads(await process.stdout.read())
    assert (process.returncode, report["messages"]["delivered"]) == (0, 3)


async def test_dead_letters_are_appended_to_and_told_apart_by_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    stream = b"oops\n" + lines(1)
    reports = [(await pushed(endpoint, stream, tmp_path)).report for _ in range(2)]
    letters = letters_in(tmp_path)
    assert [letter["run_id"] for letter in letters] == [report["run_id"] for report in reports]
    assert len({report["run_id"] for report in reports}) == 2
    assert (tmp_path / "pusher.dead.ndjson").stat().st_mode & 0o077 == 0


async def test_a_scanner_that_does_not_load_is_called_not_compiled(tmp_path: Path) -> None:
    (tmp_path / f"_scanner{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"of a machine")
    program = "import pusher; pusher.__path__[:0] = ['.']; import pusher.__main__ as m; m.main()"
    async with starting(sys.executable, "-c", program, "--version", cwd=tmp_path) as process:
        shown = await ended(process, within_s=10)
    assert process.returncode == 0
    assert shown.out.splitlines()[1:] == [b"scanner: not compiled, so slower"]


async def test_the_console_script_and_the_module_are_the_same_command(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("pusher")
    assert script.exists(), "the package is not installed"
    async with starting(script, "--version", cwd=tmp_path) as process:
        installed = await ended(process, within_s=10)
    assert installed.out == (await run("--version", cwd=tmp_path)).out
    assert importlib.util.find_spec("pusher") is not None


async def test_a_push_through_a_bridge_with_latency_stays_whole(tmp_path: Path) -> None:
    async with northwind_bridge("--latency", "20ms", cwd=tmp_path) as url:
        flags = ("--url", url, "--concurrency", "4", *PUSH)
        result = await run("push", NORTHWIND, *flags, cwd=tmp_path, stdin=DEVNULL)
    assert result.counts() == (4059, 4059, 0, 0)
    assert result.report["in_flight"]["max"] == 4
    assert result.report["latency_ms"]["p50"] >= 20
