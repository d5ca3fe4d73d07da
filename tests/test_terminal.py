"""What a person at a terminal sees: a bar while it runs, and a clean screen afterwards."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import shlex
import shutil
import struct
import termios
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web
from fakes.command import PUSHER, ended, environment, message, ndjson, run, starting
from fakes.endpoint import Endpoint, Request, accept, until

ESCAPE = "\x1b"
SHOW_CURSOR = "\x1b[?25h"
HIDE_CURSOR = "\x1b[?25l"
ERASE_LINE = "\x1b[2K"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BAR = re.compile("[━╸╺█]")


class Gate:
    """An endpoint that answers the first requests, and the rest when it is told to."""

    def __init__(self, endpoint: Endpoint, *, free: int = 3) -> None:
        self._free = free
        self._opened = asyncio.Event()
        endpoint.answer = self._answer

    def open(self) -> None:
        self._opened.set()

    async def _answer(self, request: Request) -> web.StreamResponse:
        if request.number >= self._free:
            await self._opened.wait()
        return await accept(request)


class Terminal:
    """The master's side of a pseudo terminal, with all that was written to it."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._seen = bytearray()

    @property
    def seen(self) -> str:
        return self._seen.decode("utf-8", "replace")

    def read(self) -> None:
        """Called when there is something to read. An end looks like an error."""
        try:
            self._seen += os.read(self._master, 1 << 16)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)


@asynccontextmanager
async def terminal(*, columns: int = 100) -> AsyncIterator[tuple[Terminal, int]]:
    """A terminal, and the descriptor that a process writes to."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    seen = Terminal(master)
    loop = asyncio.get_running_loop()
    loop.add_reader(master, seen.read)
    try:
        yield seen, slave
    finally:
        loop.remove_reader(master)
        os.close(slave)
        os.close(master)


async def pushed_at_a_terminal(
    endpoint: Endpoint,
    folder: Path,
    *flags: str,
    env: Mapping[str, str],
    sign: str | None,
) -> tuple[str, str, int]:
    """Push at a terminal. What it showed until `sign` was there, what it showed then, the code."""
    gate = Gate(endpoint)
    (folder / "in").write_bytes(ndjson(message(number) for number in range(1200)))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, "--confirm", "0", *flags)
    async with (
        terminal() as (screen, slave),
        starting(*argv, cwd=folder, stderr=slave, env=env) as process,
    ):
        await until(lambda: len(endpoint.accepted) == 3)
        if sign is not None:
            await until(lambda: sign in screen.seen)
        before = screen.seen
        gate.open()
        result = await ended(process, within_s=10)
        await until(lambda: "delivered: 1,200 of 1,200" in screen.seen or "-q" in flags)
        return before, screen.seen[len(before) :], result.code


async def test_a_bar_is_drawn_and_removed_and_the_summary_stays(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    env = {"TERM": "xterm-256color"}
    before, after, code = await pushed_at_a_terminal(
        endpoint, tmp_path, env=env, sign="600 delivered"
    )
    assert code == 0
    assert "pushing" in before
    assert "in flight" in before
    assert BAR.search(before)
    assert HIDE_CURSOR in before
    shown, _, summary = after.rpartition(ERASE_LINE)
    assert SHOW_CURSOR in shown + summary
    assert summary.replace(SHOW_CURSOR, "").lstrip("\r\n").startswith("delivered: 1,200 of 1,200")
    assert not BAR.search(summary)
    assert not summary.endswith(HIDE_CURSOR)


async def test_no_colour_means_none(endpoint: Endpoint, tmp_path: Path) -> None:
    async def colours(**env: str) -> list[str]:
        endpoint.requests.clear()
        endpoint.accepted.clear()
        shown = await pushed_at_a_terminal(
            endpoint, tmp_path, env={"TERM": "xterm-256color", **env}, sign="600 delivered"
        )
        assert BAR.search(shown[0])
        return [
            code
            for code in COLOUR.findall(shown[0] + shown[1])
            if set(re.findall(r"\d+", code)) - {"0", "1", "2", "3", "4", "22"}
        ]

    assert await colours()
    assert not await colours(NO_COLOR="1")


async def test_a_dumb_terminal_gets_plain_lines(endpoint: Endpoint, tmp_path: Path) -> None:
    """Without a bar there is a line every five seconds."""
    before, after, code = await pushed_at_a_terminal(
        endpoint, tmp_path, env={"TERM": "dumb"}, sign="pushing: "
    )
    assert code == 0
    assert ESCAPE not in before + after
    assert after.startswith("delivered: 1,200 of 1,200 messages")


@pytest.mark.parametrize("term", ["", "unknown"])
async def test_a_terminal_that_nothing_is_known_of_gets_no_escape_codes(
    term: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    before, after, code = await pushed_at_a_terminal(
        endpoint, tmp_path, env={"TERM": term}, sign=None
    )
    assert code == 0
    assert ESCAPE not in before + after


@pytest.mark.parametrize("flags", [("--progress", "never"), ("-q",)])
async def test_no_bar_is_drawn_where_none_is_wanted(
    flags: tuple[str, ...], endpoint: Endpoint, tmp_path: Path
) -> None:
    env = {"TERM": "xterm-256color"}
    before, after, code = await pushed_at_a_terminal(endpoint, tmp_path, *flags, env=env, sign=None)
    assert code == 0
    assert ESCAPE not in before + after
    assert not BAR.search(before + after)
    if "-q" in flags:
        assert before + after == ""


async def test_a_pipe_gets_no_escape_codes_whatever_the_terminal_is(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    env = {"TERM": "xterm-256color"}
    stdin = ndjson(message(number) for number in range(500)) + b"oops\n"
    arguments = ("push", "--url", endpoint.url, "-v", "--report", "-")
    result = await run(*arguments, cwd=tmp_path, stdin=stdin, env=env)
    assert result.code == 1
    assert ESCAPE not in result.err
    assert b"\x1b" not in result.out


async def test_a_log_line_does_not_stay_inside_of_the_bar(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """A warning and a retry are told above the bar, on lines of their own."""

    async def fail_then_wait(request: Request) -> web.StreamResponse:
        if request.number == 0:
            return web.Response(status=503, headers={"Retry-After": "1"})
        return await accept(request)

    endpoint.answer = fail_then_wait
    (tmp_path / "in").write_bytes(ndjson([message(1, changedAt=1_600_000_000)]))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, "--confirm", "0", "-v")
    env = {"TERM": "xterm-256color"}
    async with (
        terminal(columns=200) as (screen, slave),
        starting(*argv, cwd=tmp_path, stderr=slave, env=env) as process,
    ):
        result = await ended(process, within_s=10)
        await until(lambda: "delivered: 1 of 1" in screen.seen)
        text = screen.seen
    assert result.code == 0
    without_codes = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\r", text)
    rows = [row.strip() for row in re.split(r"[\r\n]+", without_codes)]
    assert any(row.startswith("pusher: s1 PRODUCT: attempt 1") for row in rows)
    assert any(row.startswith("pusher: warning:") and "seconds" in row for row in rows)


async def test_a_terminal_that_goes_away_does_not_stop_a_run(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    gate = Gate(endpoint)
    (tmp_path / "in").write_bytes(ndjson(message(number) for number in range(1200)))
    argv = (*PUSHER, "push", "in", "--url", endpoint.url, "--confirm", "0", "--report", "-")
    env = {"TERM": "xterm-256color"}
    master, slave = pty.openpty()
    async with starting(*argv, cwd=tmp_path, stdout=PIPE, stderr=slave, env=env) as process:
        os.close(slave)
        await until(lambda: len(endpoint.accepted) == 3)
        os.close(master)
        gate.open()
        result = await ended(process, within_s=10)
    assert result.code == 0
    assert result.counts() == (1200, 1200, 0, 0)


class Tmux:
    """A tmux server of its own with one session. It is killed at the end."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def do(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        argv = ("tmux", "-S", str(self._socket), "-f", "/dev/null", *command)
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=PIPE, stderr=PIPE, env=environment(env)
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), 10)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return out.decode()

    async def pane_with(self, *signs: str) -> str:
        """The screen, as soon as it shows all the signs."""
        screen = ""
        try:
            async with asyncio.timeout(15):
                while True:
                    screen = await self.do("capture-pane", "-p", "-t", "test")
                    if all(sign in screen for sign in signs):
                        return screen
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise AssertionError(f"not on the screen, which is:\n{screen}") from error


@asynccontextmanager
async def tmux(folder: Path, script: str) -> AsyncIterator[Tmux]:
    server = Tmux(folder / "tmux")
    size = ("-x", "110", "-y", "24")
    shell = ("env", "PS1=ready> ", "LC_ALL=C.UTF-8", "sh")
    await server.do("new-session", "-d", "-s", "test", "-c", str(folder), *size, shlex.join(shell))
    try:
        await server.pane_with("ready>")
        (folder / "script").write_text(script)
        await server.do("send-keys", "-t", "test", ". ./script", "Enter")
        yield server
    finally:
        await server.do("kill-server")


needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is missing")


@needs_tmux
async def test_in_a_real_terminal_the_bar_is_there_while_it_runs_and_gone_afterwards(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    gate = Gate(endpoint)
    (tmp_path / "in").write_bytes(ndjson(message(number) for number in range(1200)))
    push = shlex.join((*PUSHER, "push", "in", "--url", endpoint.url))
    async with tmux(tmp_path, f"{push}; echo code=$?") as server:
        during = await server.pane_with("600 delivered", "in flight")
        gate.open()
        after = await server.pane_with("code=0")
    (bar,) = [line for line in during.splitlines() if "delivered" in line]
    assert BAR.search(bar)
    assert "pushing" in bar
    rows = [row for row in after.splitlines() if row.strip()]
    assert rows[0] == "ready> . ./script"
    assert rows[1].startswith("delivered: 1,200 of 1,200 messages delivered in ")
    assert rows[2].strip().endswith("sampled objects confirmed")
    assert rows[3].strip().startswith("at most ")
    assert rows[4] == "code=0"
    assert rows[5:] in (["ready>"], ["ready> "])
    assert not BAR.search(after)


@needs_tmux
async def test_in_a_real_terminal_ctrl_c_ends_a_run_with_a_summary(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    gate = Gate(endpoint)
    push = shlex.join((*PUSHER, "push", "--url", endpoint.url, "--linger", "100ms"))
    feed = f"(cat in; sleep 60) | {push}; echo code=$?"
    (tmp_path / "in").write_bytes(ndjson(message(number) for number in range(1200)))
    async with tmux(tmp_path, feed) as server:
        await server.pane_with("600 delivered")
        await server.do("send-keys", "-t", "test", "C-c")
        gate.open()
        after = await server.pane_with("code=130")
    assert "interrupted: 1,200 of 1,200 messages" in after
    assert "interrupted by SIGINT" in after
    assert not BAR.search(after)
    assert len(endpoint.delivered) == 1200
