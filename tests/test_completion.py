"""Completion in real shells: what Tab makes of what was typed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.command import environment, run

BIN = Path(sys.executable).parent
SHELLS = [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)]
INTERACTIVE = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
}
SET_UP = {
    "bash": 'eval "$(pusher completion bash)"',
    "zsh": 'autoload -U compinit && compinit -u -D && eval "$(pusher completion zsh)"',
}
DEADLINE_S = 20.0


def shell_environment(home: Path) -> dict[str, str]:
    return environment(
        {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(home),
            "TERM": "dumb",
            "PS1": "> ",
            "XDG_CONFIG_HOME": str(home),
        }
    )


class Terminal:
    """A shell on a terminal, at which one types."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str) -> str:
        """Read until the text is there; what was read up to then."""
        deadline_s = time.monotonic() + DEADLINE_S
        while text not in self._seen:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"no {text!r} in {self._seen!r}"
            if select.select([self._descriptor], [], [], left_s)[0]:
                self._seen += os.read(self._descriptor, 65536).decode(errors="replace")
        before, _, self._seen = self._seen.partition(text)
        return before


@contextmanager
def terminal(shell: str, home: Path) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        INTERACTIVE[shell],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=home,
        env=shell_environment(home),
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            typed = Terminal(ours)
            typed.type(f"{SET_UP[shell]} && echo 'is' 'ready'\n")
            typed.wait_for("is ready")
            yield typed
        finally:
            process.kill()
            os.close(ours)


def test_there_is_a_shell_to_try() -> None:
    assert "bash" in SHELLS


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell in INTERACTIVE])
def test_tab_completes_what_is_typed(shell: str, tmp_path: Path) -> None:
    (tmp_path / "changes of today.ndjson").touch()
    with terminal(shell, tmp_path) as typed:
        for begun, completed in (
            ("pusher gen\t", "pusher generate "),
            ("pusher push --conc\t", "pusher push --concurrency "),
            ("pusher push --order no\t", "pusher push --order none "),
            ("pusher stores pu\t", "pusher stores put "),
            ("pusher config stores pu\t", "pusher config stores put "),
            ("pusher status LINE\t", "pusher status LINE_ITEM "),
            ("pusher push cha\t", "changes\\ of\\ today.ndjson"),
            ("pusher push --token-file cha\t", "changes\\ of\\ today.ndjson"),
        ):
            typed.type(begun)
            typed.wait_for(completed)
            typed.type("\x15echo 'line' 'done'\n")  # Ctrl-U: the line is not run.
            typed.wait_for("line done")


ASK = {
    "bash": (
        'eval "$(pusher completion bash)"; compopt() { :; }; COMP_WORDS=("$@"); '
        "COMP_CWORD=$(($# - 1)); _pusher_completion pusher; "
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    ),
    "fish": 'pusher completion fish | source; complete -C (string join " " -- $argv)',
    # It completes at a terminal only: this is what its function asks, three lines an answer.
    "zsh": 'COMP_WORDS="$*" COMP_CWORD=$(($# - 1)) _PUSHER_COMPLETE=zsh_complete pusher',
}


def completions(shell: str, typed: str, folder: Path) -> set[str]:
    """What a shell offers for a line."""
    name = () if shell == "fish" else (shell,)
    done = subprocess.run(
        [shell, "-c", ASK[shell], *name, *typed.split(" ")],
        cwd=folder,
        env=shell_environment(folder),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    return {line.partition("\t")[0] for line in (lines[1::3] if shell == "zsh" else lines)}


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_options_and_choices_are_offered(shell: str, tmp_path: Path) -> None:
    commands = completions(shell, "pusher ", tmp_path)
    assert commands >= {"push", "replay", "stores", "config", "completion"}
    options = completions(shell, "pusher push --conf", tmp_path)
    assert options >= {"--confirm", "--confirm-rate", "--config"}
    assert all(option.startswith("--conf") for option in options)
    assert completions(shell, "pusher push --group-protocol ", tmp_path) == {
        "classic",
        "consumer",
    }
    assert completions(shell, "pusher stores p", tmp_path) == {"put"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_settings_file_that_is_wrong_does_not_get_in_the_way(shell: str, tmp_path: Path) -> None:
    (tmp_path / "pusher.toml").write_text("nonsense = [")
    assert completions(shell, "pusher push --group-p", tmp_path) == {"--group-protocol"}


async def test_another_shell_is_exit_2(tmp_path: Path) -> None:
    result = await run("completion", "csh", cwd=tmp_path)
    assert result.code == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in result.err


async def test_the_scripts_need_none_of_the_shells(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        result = await run("completion", shell, cwd=tmp_path, env={"PATH": str(tmp_path)})
        assert (result.code, result.err) == (0, "")
        assert b"_PUSHER_COMPLETE" in result.out
