"""Settings from flags, the environment and a file: which one counts, and `pusher config`."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from fakes.command import files_in, message, ndjson, run, run_shell
from fakes.endpoint import Endpoint

from pusher.cli import command
from pusher.cli.configuring import settings_tree
from pusher.cli.naming import commands_of, setting_of, variables_of
from pusher.masking import MASK
from pusher.settings_file import Kind, Setting

SECRET = "s3cret-t0ken"


def leaves() -> dict[tuple[str, ...], click.Command]:
    """Every command that does something, by its words."""
    ctx = click.Context(command)
    assert isinstance(command, click.Group)
    found: dict[tuple[str, ...], click.Command] = {}
    for name in command.list_commands(ctx):
        one = command.get_command(ctx, name)
        assert one is not None
        found |= dict(commands_of(one, (name,)))
    return found


LEAVES = leaves()
WITH_SETTINGS = {
    path: one for path, one in LEAVES.items() if any(setting_of(one, p) for p in one.params)
}


def words(path: tuple[str, ...]) -> str:
    return " ".join(path)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command in this process sets the log up; other tests want it as it was."""
    log = logging.getLogger("pusher")
    before = log.handlers[:], log.propagate, log.level
    yield
    log.handlers[:], log.propagate = before[:2]
    log.setLevel(before[2])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    for name in os.environ:
        if name.startswith("PUSHER_"):
            monkeypatch.delenv(name)


def invoked(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(command, arguments, env=env, prog_name="pusher")


def shown(*arguments: str, env: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """What `pusher config --json` says, by setting."""
    result = invoked("config", "--json", *arguments, env=env)
    assert result.exit_code == 0, result.output
    return {row["setting"]: row for row in map(json.loads, result.stdout.splitlines())}


def settings_file(text: str | None = None, *, chmod: int | None = None) -> None:
    """Write the file that is found without being named, or change its mode."""
    if text is not None:
        Path("pusher.toml").write_text(text)
    if chmod is not None:
        Path("pusher.toml").chmod(chmod)


def settings_of(path: tuple[str, ...]) -> list[tuple[click.Parameter, Setting]]:
    one = LEAVES[path]
    found = ((param, setting_of(one, param)) for param in one.params)
    return [(param, setting) for param, setting in found if setting is not None]


# One rule for all options, also for those that are not written yet.


def a_value(param: click.Parameter, setting: Setting) -> Any:
    """Something that an option takes and that is not its default, as a file would have it."""
    existing = Path("existing")
    existing.touch()
    if setting.kind is Kind.FLAG:
        return param.default is not True
    if isinstance(param.type, click.Choice):
        return param.type.choices[-1]
    types = {Kind.INTEGER: int, Kind.NUMBER: int, Kind.STRING: str, Kind.PATH: str}
    candidates = (7, "x.example", str(existing), "7s", "7KiB", "7%", "X-A: b", "h.example:1", ".")
    context = click.Context(click.Command("any"))
    for value in candidates:
        if isinstance(value, types.get(setting.kind, object)):
            try:
                param.type.convert(str(value), param, context)
            except click.BadParameter:
                continue
            return value
    raise AssertionError(f"--{setting.key}: give an example of its value here")


def as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def as_flags(param: click.Parameter, setting: Setting, value: Any) -> list[str]:
    if setting.kind is not Kind.FLAG:
        return [f"--{setting.key}", str(value)]
    return [param.opts[-1] if value else param.secondary_opts[0]]


def as_toml(setting: Setting, value: Any) -> str:
    text = json.dumps(value)
    return f"{setting.key} = {f'[{text}]' if setting.is_list else text}\n"


def check_rows(
    rows: dict[str, dict[str, Any]], given: dict[Setting, Any], origin: str, path: tuple[str, ...]
) -> None:
    """All settings of a command are shown, and those that were given as they were given."""
    assert set(rows) == {setting.key for _, setting in settings_of(path)}
    for setting, value in given.items():
        row = rows.pop(setting.key)
        assert row["origin"] == origin, setting.key
        if row["masked"]:
            assert SECRET not in str(row["value"])
        elif setting.is_list:
            assert row["value"] == [str(value)]
        else:
            assert row["value"] == (str(value) if setting.kind is Kind.MEASURE else value)
    assert {row["origin"] for row in rows.values()} <= {"default"}


@pytest.mark.parametrize("path", WITH_SETTINGS, ids=words)
def test_every_option_can_be_given_as_a_flag(path: tuple[str, ...]) -> None:
    given = {one: a_value(param, one) for param, one in settings_of(path) if param.nargs != -1}
    flags = [
        flag
        for param, setting in settings_of(path)
        if setting in given
        for flag in as_flags(param, setting, given[setting])
    ]
    check_rows(shown(*path, *flags), given, "flag", path)


@pytest.mark.parametrize("path", WITH_SETTINGS, ids=words)
def test_every_option_can_be_given_in_the_environment_for_its_command(
    path: tuple[str, ...],
) -> None:
    given = {one: a_value(param, one) for param, one in settings_of(path)}
    prefix = "PUSHER_" + "_".join(path).upper() + "_"
    env = {
        prefix + setting.key.upper().replace("-", "_"): as_text(value)
        for setting, value in given.items()
    }
    if path == ("confirm",):  # That name is the one of --confirm-timeout.
        env["PUSHER_CONFIRM__TIMEOUT"] = env.pop("PUSHER_CONFIRM_TIMEOUT")
    check_rows(shown(*path, env=env), given, "environment", path)


@pytest.mark.parametrize("path", WITH_SETTINGS, ids=words)
def test_every_option_can_be_given_in_the_environment_for_all_commands(
    path: tuple[str, ...],
) -> None:
    given = {one: a_value(param, one) for param, one in settings_of(path) if one.is_shared}
    env = {
        "PUSHER_" + setting.key.upper().replace("-", "_"): as_text(value)
        for setting, value in given.items()
    }
    check_rows(shown(*path, env=env), given, "environment", path)


@pytest.mark.parametrize("path", WITH_SETTINGS, ids=words)
@pytest.mark.parametrize("place", ["top", "table", "profile"])
def test_every_option_can_be_given_in_a_file(path: tuple[str, ...], place: str) -> None:
    header = {"top": (), "table": path, "profile": ("profiles", "prod", *path)}[place]
    given = {
        setting: a_value(param, setting)
        for param, setting in settings_of(path)
        if header or setting.is_shared
    }
    toml = f"[{'.'.join(header)}]\n" if header else ""
    toml += "".join(as_toml(setting, value) for setting, value in given.items())
    settings_file(toml)
    env = {"PUSHER_PROFILE": "prod"} if place == "profile" else None
    check_rows(shown(*path, env=env), given, "file", path)


def test_no_option_stands_apart_but_those_that_have_to() -> None:
    apart = {
        (path, setting.key)
        for path in LEAVES
        for param, setting in settings_of(path)
        if not setting.is_shared and isinstance(param, click.Option) and path != ("bridge",)
    }
    # Where all runs write a page, to look at an earlier report must not replace it.
    assert apart == {(("errors",), "type"), (("errors",), "limit"), (("report",), "html")}


def test_the_names_that_worked_go_on_working() -> None:
    names = {
        name for path in LEAVES for _, one in settings_of(path) for name in variables_of(path, one)
    }
    assert names >= {
        "PUSHER_URL",
        "PUSHER_TOKEN",
        "PUSHER_API_KEY",
        "PUSHER_RATE",
        "PUSHER_HEADER",
        "PUSHER_METRICS_PORT",
        "PUSHER_DEAD_LETTERS_TOPIC",
        "PUSHER_BRIDGE_TOKEN",
        "PUSHER_BRIDGE_CLIENT_SECRET",
    }


def test_what_shares_a_name_takes_the_same() -> None:
    """Where this fails, let one of the options stand apart, with `cls=ApartOption`."""
    kinds: dict[str, tuple[Kind, bool]] = {}
    for path in LEAVES:
        for _, setting in settings_of(path):
            if setting.is_shared:
                kind = kinds.setdefault(setting.key, (setting.kind, setting.is_list))
                assert kind == (setting.kind, setting.is_list), f"{path}: {setting.key}"


def test_no_variable_means_two_things() -> None:
    """PUSHER_<COMMAND>_<FLAG> of one command is not PUSHER_<FLAG> of another."""
    owners: dict[str, set[tuple[str, bool]]] = {}
    for path in LEAVES:
        for _, setting in settings_of(path):
            own, *shared = variables_of(path, setting)
            owners.setdefault(own, set()).add((words(path), True))
            for name in shared:
                owners.setdefault(name, set()).add((setting.key, False))
    assert not {name: found for name, found in owners.items() if len(found) > 1}


@pytest.mark.parametrize("path", WITH_SETTINGS, ids=words)
def test_every_secret_is_masked(path: tuple[str, ...]) -> None:
    """Secret is what the help calls visible in `ps`."""
    secrets = {
        setting.key: variables_of(path, setting)[0]
        for param, setting in settings_of(path)
        if "Visible in `ps`" in (getattr(param, "help", None) or "")
    }
    env = dict.fromkeys(secrets.values(), f"X-Secret: {SECRET}")
    for arguments in (path, ("--json", *path), ()):
        result = invoked("config", *arguments, env=env)
        assert result.exit_code == 0, result.output
        assert SECRET not in result.output
        assert result.output.count(MASK) >= len(secrets)


# Which one counts.


async def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    settings_file(
        f'url = "{endpoint.url}"\nconfirm = 0\nbatch-size = 3\n[push]\nreport = "file.json"\n'
    )
    lines = ndjson(message(number) for number in range(12))
    expected = [3, 3, 3, 3]
    for arguments, env in (
        ((), {}),
        ((), {"PUSHER_BATCH_SIZE": "4"}),
        ((), {"PUSHER_BATCH_SIZE": "5", "PUSHER_PUSH_BATCH_SIZE": "6"}),
        (("--batch-size", "12"), {"PUSHER_BATCH_SIZE": "4", "PUSHER_PUSH_BATCH_SIZE": "6"}),
    ):
        endpoint.requests.clear()
        result = await run("push", *arguments, env=env, cwd=tmp_path, stdin=lines)
        assert result.code == 0, result.err
        assert "settings from pusher.toml" in result.err
        assert [len(request.ids) for request in endpoint.requests] == expected
        expected = {3: [4, 4, 4], 4: [6, 6], 6: [12]}.get(expected[0], [])
    assert json.loads((tmp_path / "file.json").read_bytes())["messages"]["delivered"] == 12


async def test_flags_replace_the_arrays_of_the_file(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "a b.ndjson").write_bytes(ndjson([message(1), message(2, storeId="s2")]))
    (tmp_path / "c.ndjson").write_bytes(ndjson([message(3)]))
    settings_file(
        f'url = "{endpoint.url}"\nconfirm = 0\nheader = ["X-A: 1", "X-B: 2"]\nonly-store = ["s2"]\n'
        '[push]\nsource = ["a b.ndjson", "c.ndjson"]\n'
    )
    result = await run("push", "--report", "-", cwd=tmp_path)
    assert result.counts() == (3, 1, 0, 0), result.err
    assert endpoint.requests[-1].headers["X-B"] == "2"
    result = await run(
        *("push", "c.ndjson", "--header", "X-C: 3", "--only-store", "s1", "--report", "-"),
        cwd=tmp_path,
    )
    assert result.counts() == (1, 1, 0, 0)
    assert "X-A" not in endpoint.requests[-1].headers
    assert endpoint.requests[-1].headers["X-C"] == "3"


async def test_an_api_key_that_is_given_wins_over_the_token_of_the_file(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    settings_file(f'url = "{endpoint.url}"\nconfirm = 0\ntoken-file = "gone"\n')
    line = ndjson([message(1)])
    result = await run("push", "--api-key", SECRET, cwd=tmp_path, stdin=line)
    assert result.code == 0, result.err
    assert endpoint.requests[-1].query["hapikey"] == SECRET
    rows = shown("push", env={"PUSHER_API_KEY": SECRET})
    assert rows["token-file"]["origin"] == "overruled"
    assert rows["token-file"]["line"] == 3
    settings_file(f'url = "{endpoint.url}"\ntoken-file = "gone"\napi-key = "x"\n')
    result = await run("push", cwd=tmp_path, stdin=line)
    assert result.code == 2
    assert "gone" in result.err


def test_the_origin_of_a_value_is_where_it_was_given_even_where_it_is_the_default() -> None:
    settings_file("[push]\nmax-attempts = 8\n")
    rows = shown("push", "--order", "key", env={"PUSHER_BATCH_SIZE": "200", "PUSHER_LINGER": ""})
    assert {key: (rows[key]["value"], rows[key]["origin"]) for key in ("batch-size", "linger")} == {
        "batch-size": (200, "environment"),
        "linger": ("1s", "default"),
    }
    assert rows["batch-size"]["variable"] == "PUSHER_BATCH_SIZE"
    assert (rows["order"]["value"], rows["order"]["origin"]) == ("key", "flag")
    assert rows["max-attempts"] == {
        "setting": "max-attempts",
        "value": 8,
        "origin": "file",
        "variable": None,
        "file": "pusher.toml",
        "line": 2,
        "key": "push.max-attempts",
        "masked": False,
        "note": None,
    }


def test_a_default_of_one_command_is_no_setting_of_the_file() -> None:
    assert shown("replay")["dead-letters"]["value"] == "replay.dead.ndjson"
    assert shown("replay")["dead-letters"]["origin"] == "default"
    settings_file('dead-letters = "mine.ndjson"\n')
    assert shown("replay")["dead-letters"]["value"] == "mine.ndjson"
    assert shown("replay")["dead-letters"]["origin"] == "file"


def test_the_flags_of_the_bridge_are_its_own() -> None:
    """Its token is the one that it demands, not the one that is sent."""
    settings_file('token = "client"\n[bridge]\nport = 81\n')
    rows = shown("bridge", env={"PUSHER_TOKEN": "client", "PUSHER_PORT": "tcp://10.0.0.1:80"})
    assert rows["token"]["value"] is None
    assert rows["port"]["value"] == 81
    assert shown("bridge", env={"PUSHER_BRIDGE_TOKEN": "own"})["token"]["origin"] == "environment"


def test_the_type_and_limit_of_a_push_do_not_hide_errors() -> None:
    settings_file('type = "DEAL"\nlimit = 5\n')
    rows = shown("errors", env={"PUSHER_TYPE": "DEAL", "PUSHER_LIMIT": "5"})
    assert (rows["type"]["value"], rows["limit"]["value"]) == (None, None)
    assert shown("push")["type"]["value"] == "DEAL"


# Which file.


def test_the_file_is_the_one_that_is_named_else_here_else_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate(*arguments: str, env: dict[str, str] | None = None) -> Any:
        return shown(*arguments, "push", env=env)["rate"]["value"]

    assert rate() is None
    home = tmp_path / "config" / "pusher"
    home.mkdir(parents=True)
    (home / "pusher.toml").write_text("rate = 1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home.parent))
    assert rate() == 1
    settings_file("rate = 2")
    assert rate() == 2
    Path("named.toml").write_text("rate = 3\n[profiles.fast]\nrate = 30")
    Path("other.toml").write_text("rate = 4")
    env = {"PUSHER_CONFIG": "named.toml"}
    assert rate(env=env) == 3
    assert rate(env={**env, "PUSHER_PROFILE": "fast"}) == 30
    assert rate("--config", "other.toml", env=env) == 4
    result = invoked("--config", "other.toml", "config", "--json", "push", "--rate", "9", env=env)
    assert '"value":9,"origin":"flag"' in result.stdout
    assert rate("--config", os.devnull, env=env) is None
    for arguments in (
        ("--config", "named.toml", "config", "--profile", "fast", "--json", "push"),
        ("config", "--json", "push", "--profile", "fast", "--config", "named.toml"),
        ("--profile", "fast", "config", "--json", "push", "--config", "named.toml"),
    ):
        assert '"value":30,"origin":"file"' in invoked(*arguments).stdout, arguments


async def test_home_is_dot_config_where_nothing_else_is_said(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "pusher"
    folder.mkdir(parents=True)
    (folder / "pusher.toml").write_text("rate = 1")
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    result = await run("config", "push", cwd=tmp_path, env=env)
    assert re.search(rf"^rate +1 +{folder}/pusher.toml:1$", result.out.decode(), re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate = ", "Error: pusher.toml: not TOML: "),
        ('linger = "soon"', "pusher.toml, line 1: linger: 'soon' is not a duration such as"),
        ('order = "random"', "pusher.toml, line 1: order: 'random' is not one of"),
        ("metrics-port = 70000", "pusher.toml, line 1: metrics-port: 70000 is not in the range"),
        ('header = ["s3cret-t0ken"]', "line 1: header: a header is given as NAME: VALUE"),
        ('ca-file = "gone.pem"', "line 1: ca-file: File 'gone.pem' does not exist"),
        ("[bridge]\nprot = 1", "line 2: unknown key 'prot' in [bridge]; did you mean 'port'?"),
        ("concurency = 4", "line 1: unknown key 'concurency'; did you mean 'concurrency'?"),
        ("batch_size = 4", "line 1: unknown key 'batch_size'; did you mean 'batch-size'?"),
        ("keep-serving = true", "line 1: unknown key 'keep-serving': write once = false"),
        ("config = 'x'", "line 1: unknown key 'config'"),
        ("\xff", "pusher.toml: not TOML"),
        ("#" * (1 << 18) + "\n", "pusher.toml: larger than 256 KiB"),
    ],
)
async def test_a_bad_file_is_exit_2_and_nothing_is_done(
    text: str, expected: str, tmp_path: Path
) -> None:
    settings_file(text)
    result = await run("push", "--url", "http://127.0.0.1:9", cwd=tmp_path, stdin=b"{}\n")
    assert (result.code, result.out) == (2, b"")
    assert expected in result.err
    assert SECRET not in result.err
    assert len(result.err.splitlines()) == 1
    assert files_in(tmp_path) == ["pusher.toml"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--config", "gone.toml"), "Error: gone.toml: No such file or directory"),
        (("--config", "."), "Error: .: Is a directory"),
        (("--config", "binary"), "Error: binary: not UTF-8"),
        (("--profile", "prod"), "Error: --profile prod: there is no settings file"),
        (("--config", "empty", "--profile", "prod"), "Error: empty: no profile 'prod'"),
    ],
)
def test_a_file_that_cannot_be_used_is_exit_2(arguments: tuple[str, ...], expected: str) -> None:
    Path("binary").write_bytes(b"\xff\xfe")
    Path("empty").touch()
    result = invoked("push", "--url", "http://127.0.0.1:9", *arguments)
    assert result.exit_code == 2
    assert expected in result.output


def test_a_file_that_somebody_else_left_here_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address in it would be sent our token. Root's file may be used."""
    settings_file("rate = 1")
    if os.geteuid() == 0:
        os.chown("pusher.toml", 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    result = invoked("config", "push")
    assert result.exit_code == 2
    assert "belongs to another user: to use it, give --config pusher.toml" in result.output
    assert shown("push", "--config", "pusher.toml")["rate"]["value"] == 1


@pytest.mark.parametrize(
    ("toml", "is_secret"),
    [
        ('token = "x"', True),
        ('[profiles.prod.push]\nclient-secret = "x"', True),
        ('header = ["A: b"]', True),
        ('url = "http://me:pw@127.0.0.1:9"', True),
        ('token-file = "x"', False),
        ('url = "http://127.0.0.1:9"', False),
        ('client-key = "pusher.toml"', False),
    ],
)
def test_a_file_with_secrets_that_all_may_read_is_warned_about(
    toml: str, *, is_secret: bool
) -> None:
    settings_file(toml)
    for mode, is_open in ((0o644, True), (0o640, False), (0o600, False)):
        settings_file(chmod=mode)
        result = invoked("config", "push")
        assert result.exit_code == 0
        assert ("chmod 600" in result.stderr) == (is_secret and is_open)
        assert "chmod" not in result.stdout


async def test_the_warning_follows_quiet_and_the_log_format(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    settings_file(f'url = "{endpoint.url}"\nconfirm = 0\ntoken = "{SECRET}"\n')
    settings_file(chmod=0o644)
    line = ndjson([message(1)])
    quiet = await run("push", "-q", cwd=tmp_path, stdin=line)
    assert (quiet.code, quiet.err) == (0, "")
    logged = await run("push", "--log-format", "json", cwd=tmp_path, stdin=line)
    entries = [json.loads(entry) for entry in logged.err.splitlines()]
    assert [entry["level"] for entry in entries[:2]] == ["info", "warning"]
    assert entries[0]["message"] == "settings from pusher.toml"
    assert SECRET not in logged.err


@pytest.mark.parametrize(
    ("toml", "env", "flags", "expected"),
    [
        (
            "batch-size = 201",
            {},
            (),
            "between 1 and 200 (--batch-size is from pusher.toml, line 1)",
        ),
        ("", {"PUSHER_BATCH_SIZE": "0"}, (), "1 and 200 (--batch-size is PUSHER_BATCH_SIZE)"),
        ("batch-size = 20", {}, ("--batch-size", "0"), "--batch-size must be between 1 and 200"),
        ('[push]\ntoken-file = "gone"', {}, (), "(--token-file is from pusher.toml, line 2)"),
        ("", {"PUSHER_TOKEN": ""}, ("--token", ""), "Error: --token is empty"),
    ],
)
async def test_a_value_out_of_its_range_is_named_with_its_place(
    toml: str, env: dict[str, str], flags: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    settings_file(toml)
    arguments = ("push", "--url", "http://127.0.0.1:9", *flags)
    result = await run(*arguments, cwd=tmp_path, stdin=b"", env=env)
    assert result.code == 2
    assert result.err.rstrip().endswith(expected)


# pusher config.


def test_the_settings_are_an_aligned_table() -> None:
    settings_file('url = "http://me:pw@h"\n')
    result = invoked("config", "push", "--rate", "2.50", "--only-store", "a", "--only-store", "b")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["SETTING", "VALUE", "FROM"]
    columns = [lines[0].index(heading) for heading in ("VALUE", "FROM")]
    assert all(line[column - 1] == " " != line[column] for line in lines for column in columns)
    text = "\n".join(" ".join(line.split()) for line in lines)
    for expected in (
        "url http://me:***@h pusher.toml:1",
        "rate 2.5 flag",
        "only-store a, b flag",
        "phases false default",
        "batch-bytes 4MiB default",
        "token - default",
        "confirm-rate (9; on loopback no limit) default",
    ):
        assert f"\n{expected}\n" in text


def test_what_is_required_is_no_error_in_config() -> None:
    text = invoked("config", "stores", "put").stdout
    assert re.search(r"^url +\(required\) +default$", text, re.MULTILINE)


def test_a_value_that_is_none_is_an_error_in_config_too() -> None:
    result = invoked("config", "push", "--linger", "soon")
    assert (result.exit_code, result.stdout) == (2, "")
    result = invoked("config", "push", env={"PUSHER_PUSH_LINGER": "soon"})
    assert result.exit_code == 2
    assert "Invalid value for PUSHER_PUSH_LINGER: 'soon' is not a duration" in result.output


def test_config_alone_shows_what_is_set_and_names_what_nobody_knows() -> None:
    settings_file('rate = 2\n[bridge]\ntoken = "x"\n[profiles.p.push]\nlimit = 1\n')
    env = {
        "PUSHER_URL": "http://u:p@h",
        "PUSHER_BRIDGE_API_KEY": "k",
        "PUSHER_RAET": "3",
        "PUSHER_LINGER": "",
        "PUSHER_CONFIG": "pusher.toml",
    }
    result = invoked("config", env=env)
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [
        ["rate", "2", "pusher.toml:1"],
        ["bridge.token", "***", "pusher.toml:3"],
        ["profiles.p.push.limit", "1", "pusher.toml:5"],
        ["bridge.api-key", "***", "PUSHER_BRIDGE_API_KEY"],
        ["url", "http://u:***@h", "PUSHER_URL"],
    ]
    assert "no command knows PUSHER_RAET; did you mean PUSHER_RATE?" in result.stderr
    assert "PUSHER_LINGER" not in result.output


def test_config_alone_with_nothing_set_says_so() -> None:
    result = invoked("config")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing is set" in result.stderr


def test_every_command_with_settings_can_be_asked_for() -> None:
    assert set(settings_tree(click.Context(command))) == set(LEAVES)
    for path in WITH_SETTINGS:
        assert invoked("config", *path).exit_code == 0, path


async def test_config_in_a_pipe_that_is_closed_is_no_error(tmp_path: Path) -> None:
    result = await run_shell("pusher config push | head -1", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert result.out.split() == [b"SETTING", b"VALUE", b"FROM"]


def test_the_help_does_not_show_what_is_in_the_file() -> None:
    settings_file(f'url = "http://{SECRET}@h"\nmetrics-host = "{SECRET}"\n')
    result = invoked("push", "--config", "pusher.toml", "--help")
    assert result.exit_code == 0
    assert SECRET not in result.output


@pytest.mark.parametrize("path", WITH_SETTINGS, ids=words)
def test_what_is_a_file_is_declared_as_one(path: tuple[str, ...]) -> None:
    """Shells complete its name, and a settings file wants a string."""
    for param, setting in settings_of(path):
        if getattr(param, "metavar", None) == "FILE":
            assert setting.kind is Kind.PATH, setting.key
