"""Settings in a file: what counts for a command, and what is wrong with a file, and where."""

from __future__ import annotations

import pytest

from pusher import UsageError
from pusher.settings_file import Kind, Setting, SettingsFile, nearest

PUSH = {
    setting.key: setting
    for setting in (
        Setting("url", Kind.STRING),
        Setting("rate", Kind.NUMBER),
        Setting("limit", Kind.INTEGER),
        Setting("linger", Kind.MEASURE),
        Setting("preflight", Kind.FLAG, opposites=("no-preflight",)),
        Setting("ca-file", Kind.PATH),
        Setting("header", Kind.MEASURE, is_list=True),
        Setting("source", Kind.PATH, is_list=True, is_shared=False),
    )
}
STORES_PUT = {
    "url": Setting("url", Kind.STRING),
    "label": Setting("label", Kind.STRING),
}
STORES_LIST = {"url": Setting("url", Kind.STRING)}
BRIDGE = {
    "port": Setting("port", Kind.INTEGER, is_shared=False),
    "db": Setting("db", Kind.PATH, is_shared=False),
}
COMMANDS = {
    ("push",): PUSH,
    ("stores", "put"): STORES_PUT,
    ("stores", "list"): STORES_LIST,
    ("bridge",): BRIDGE,
}


def parsed(text: str) -> SettingsFile:
    return SettingsFile.parse(text, "pusher.toml")


def values(text: str, *command: str, profile: str | None = None) -> dict[str, object]:
    file = parsed(text)
    file.check(COMMANDS)
    entries = file.entries(command, COMMANDS[command], profile)
    return {key: entry.value for key, entry in entries.items()}


def complaint(text: str) -> str:
    with pytest.raises(UsageError) as raised:
        parsed(text).check(COMMANDS)
    return str(raised.value)


def test_keys_at_the_top_are_for_every_command_that_has_them() -> None:
    text = 'url = "http://a"\nlimit = 3\n'
    assert values(text, "push") == {"url": "http://a", "limit": "3"}
    assert values(text, "stores", "put") == {"url": "http://a"}
    assert values(text, "bridge") == {}


def test_a_table_is_for_its_command_and_wins_over_the_top() -> None:
    text = 'url = "a"\n[push]\nurl = "b"\n[stores]\nurl = "c"\n[stores.put]\nurl = "d"\n'
    assert values(text, "push") == {"url": "b"}
    assert values(text, "stores", "list") == {"url": "c"}
    assert values(text, "stores", "put") == {"url": "d"}


def test_a_profile_wins_over_all_that_is_outside_of_it() -> None:
    text = """
        url = "a"
        [push]
        url = "b"
        rate = 1
        [profiles.prod]
        url = "c"
        [profiles.prod.push]
        limit = 7
        [profiles.test]
        url = "d"
    """
    assert values(text, "push", profile="prod") == {"url": "c", "rate": "1", "limit": "7"}
    assert values(text, "push", profile="test") == {"url": "d", "rate": "1"}
    assert values(text, "push") == {"url": "b", "rate": "1"}
    with pytest.raises(UsageError, match="no profile 'pro'; there are: prod, test"):
        values(text, "push", profile="pro")
    with pytest.raises(UsageError, match="no profile 'x'; there are: none"):
        values("", "push", profile="x")


def test_values_are_as_a_command_line_would_have_them() -> None:
    text = """
        rate = 2.5
        limit = 10
        linger = 30
        preflight = false
        header = ["A: b", "C: d"]
        [push]
        source = []
    """
    assert values(text, "push") == {
        "rate": "2.5",
        "limit": "10",
        "linger": "30",
        "preflight": False,
        "header": ["A: b", "C: d"],
        "source": [],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate", "pusher.toml: not TOML: "),
        ("rate = 1\nrate = 2", "pusher.toml: not TOML: Cannot overwrite a value"),
        ('\nrate = "fast"', "pusher.toml, line 2: rate has to be a number, not a string"),
        ("rate = true", "line 1: rate has to be a number, not true or false"),
        ("rate = 2020-01-01", "line 1: rate has to be a number, not a date or time"),
        ("limit = 2.5", "limit has to be a whole number, not a number"),
        ("limit = true", "limit has to be a whole number, not true or false"),
        ("url = 5", "url has to be a string, not a number"),
        ("linger = false", "linger has to be a string or a number, not true or false"),
        ('preflight = "no"', "preflight has to be true or false, not a string"),
        ("preflight = 0", "preflight has to be true or false, not a number"),
        ("ca-file = 3", "ca-file has to be the name of a file, in quotes, not a number"),
        ('header = "A: b"', "header has to be an array, in [ ]"),
        ("header = [[1]]", "each of header has to be a string or a number, not an array"),
        ("url = [1]", "url has to be a string, not an array"),
        ("[url]\nx = 1", "line 1: there is no command 'url'"),
        ("no-preflight = true", "unknown key 'no-preflight': write preflight = false"),
        ("raet = 1", "unknown key 'raet'; did you mean 'rate'?"),
        (
            "[push]\n\nca_file = 1",
            "line 3: unknown key 'ca_file' in [push]; did you mean 'ca-file'?",
        ),
        ("[push]\nlabel = 'x'", "line 2: unknown key 'label' in [push]"),
        ("wholly-other = 1", "line 1: unknown key 'wholly-other'"),
        ("port = 1", "line 1: 'port' belongs into [bridge]"),
        ("source = ['a']", "line 1: 'source' belongs into [push]"),
        ("[brigde]\nport = 1", "line 1: there is no command 'brigde'; did you mean 'bridge'?"),
        ("[stores.putt]\nlabel = 'x'", "there is no command 'stores putt'; did you mean 'put'?"),
        ("[bridge]\nport = 'x'", "line 2: port has to be a whole number, not a string"),
        ("[profile.prod]\nrate = 1", "there is no command 'profile'; did you mean 'profiles'?"),
        ("profiles = 3", "profiles has to be tables, as [profiles.NAME]"),
        ("profiles.prod = 3", "profiles.prod has to be a table, [profiles.prod]"),
        ("[profiles.prod.push]\nraet = 1", "line 2: unknown key 'raet' in [profiles.prod.push]"),
        ("[profiles.prod]\nrate = 'x'", "line 2: rate has to be a number"),
        ("[profiles.prod.profiles.x]\nrate = 1", "there is no command 'profiles'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, expected: str) -> None:
    assert expected in complaint(text)


def test_what_means_something_else_in_its_command_does_not_count_at_the_top() -> None:
    file = parsed("port = 80\n")
    assert file.entries(("bridge",), BRIDGE) == {}
    assert values("[bridge]\nport = 80\n", "bridge") == {"port": "80"}


def test_lines_are_right_behind_strings_and_arrays_over_several_lines() -> None:
    file = parsed(
        "# a comment\r\n"
        'url = """\n'
        "rate = 1\n"
        '[push]"""\n'
        "header = [  # another\n"
        '  "rate = 2",\n'
        "]\n"
        "\n"
        "[ push ]  # [stores]\n"
        "rate = 3\n"
        "profiles.x.url = 'y'\n"
    )
    places = {path: file.line_of(path) for path, _ in file.values()}
    assert places == {
        ("url",): 2,
        ("header",): 5,
        ("push", "rate"): 10,
        ("push", "profiles", "x", "url"): 11,
    }
    assert file.line_of(("push",)) == 9


def test_the_values_of_a_file_come_in_its_order() -> None:
    file = parsed("limit = 1\n[push]\nrate = 2\nlinger = '1s'\n[stores.put]\nlabel = 'x'\n")
    assert [".".join(path) for path, _ in file.values()] == [
        "limit",
        "push.rate",
        "push.linger",
        "stores.put.label",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("batch_size", "batch-size"),
        ("Batch-Size", "batch-size"),
        ("PUSHER_RAET", "PUSHER_RATE"),
        ("quite-another", None),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(name: str, expected: str | None) -> None:
    assert nearest(name, {"batch-size", "batch-bytes", "PUSHER_RATE"}) == expected
