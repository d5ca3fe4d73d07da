"""Credentials: demanded when the bridge has any, each where the reference puts it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pusher.bridge import BridgeConfig
from pusher.bridge.config import Credentials
from pusher.bridge.credentials import CredentialsError, read_credentials

from .talk import BASE, SETTINGS, contact, deal, talking, upsert
from .test_command import bridge, run
from .test_imports import PAGE, page, shop, started

TOKEN = {"Authorization": "Bearer t0ken"}
ALL = BridgeConfig(settings=SETTINGS, credentials=Credentials("t0ken", "k3y", "d3v"))
PATHS = [
    f"{BASE}/stores",
    f"{BASE}/stores/default",
    f"{BASE}/settings",
    f"{BASE}/settings?appId=1",
    f"{BASE}/sync/status/DEAL/default/1",
    f"{BASE}/sync/errors",
    f"{BASE}/sync/errors/portal",
    f"{BASE}/sync/errors/app/1",
    "/_bridge/stats",
    "/_bridge/objects/DEAL",
    "/_bridge/properties",
    "/_bridge/portal",
    "/_bridge/imports",
    "/_bridge/imports/1",
]


@pytest.mark.parametrize("path", PATHS)
async def test_without_credentials_every_endpoint_is_a_401_with_hubspots_body(path: str) -> None:
    async with talking(ALL) as talk:
        answer = await talk.ask("GET", path)
        assert answer.status == 401
        assert answer.body["status"] == "error"
        assert answer.body["category"] == "INVALID_AUTHENTICATION"
        assert "correlationId" in answer.body


@pytest.mark.parametrize("path", PATHS)
async def test_wrong_credentials_are_a_401_and_are_not_repeated(path: str) -> None:
    async with talking(ALL) as talk:
        mark = "&" if "?" in path else "?"
        wrong = await talk.ask("GET", f"{path}{mark}hapikey=wrong-key")
        assert wrong.status == 401
        assert "wrong-key" not in str(wrong.body)
        headers = {"Authorization": "Bearer wrong-token"}
        wrong = await talk.ask("GET", path, headers=headers)
        assert wrong.status == 401
        assert "wrong-token" not in str(wrong.body)


@pytest.mark.parametrize(
    ("path", "token", "key", "developer_key"),
    [
        (f"{BASE}/stores?", 200, 200, 401),
        (f"{BASE}/settings?", 200, 200, 401),
        (f"{BASE}/settings?appId=1&", 401, 401, 404),
        (f"{BASE}/sync/errors?", 200, 200, 401),
        (f"{BASE}/sync/errors/portal?", 200, 200, 401),
        (f"{BASE}/sync/errors/app/1?", 401, 401, 200),
        (f"{BASE}/sync/status/DEAL/default/1?", 400, 400, 401),
        (f"{BASE}/settings?appId=2&", 401, 401, 403),
        (f"{BASE}/sync/errors/app/2?", 401, 401, 403),
        ("/_bridge/stats?", 200, 200, 200),
        ("/_bridge/imports?", 200, 200, 200),
    ],
)
async def test_each_credential_opens_what_is_its_own(
    path: str, token: int, key: int, developer_key: int
) -> None:
    async with talking(ALL) as talk:
        assert (await talk.ask("GET", path, headers=TOKEN)).status == token
        assert (await talk.ask("GET", f"{path}hapikey=k3y")).status == key
        assert (await talk.ask("GET", f"{path}hapikey=d3v")).status == developer_key


async def test_messages_are_taken_with_a_token_or_the_accounts_key_only() -> None:
    path = f"{BASE}/sync/messages"
    body = {"storeId": "default", "objectType": "PRODUCT", "messages": [upsert("1", name="p")]}
    async with talking(ALL) as talk:
        assert (await talk.ask("PUT", path, body, headers=TOKEN)).status == 204
        assert (await talk.ask("PUT", f"{path}?hapikey=k3y", body)).status == 204
        assert (await talk.ask("PUT", f"{path}?hapikey=d3v", body)).status == 401
        assert (await talk.ask("PUT", path, body)).status == 401
        lower = {"Authorization": "bearer t0ken"}
        assert (await talk.ask("PUT", path, body, headers=lower)).status == 204


async def test_credentials_that_are_no_text_are_a_401() -> None:
    async with talking(ALL) as talk:
        host, port = talk.url.removeprefix("http://").split(":")
        for line in (
            b"GET /_bridge/stats HTTP/1.1\r\nAuthorization: Bearer \xff\xfe",
            b"GET /_bridge/stats?hapikey=%ff%ed%a0%80 HTTP/1.1",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
            await reader.read()
            writer.close()
            await writer.wait_closed()


async def test_an_open_bridge_takes_any_credentials() -> None:
    async with talking() as talk:
        assert (await talk.ask("GET", f"{BASE}/stores?hapikey=any")).status == 200
        assert (await talk.ask("GET", f"{BASE}/sync/errors/app/1?hapikey=any")).status == 200
        assert (await talk.ask("GET", f"{BASE}/stores", headers=TOKEN)).status == 200


def test_a_config_does_not_show_its_secrets(tmp_path: Path) -> None:
    shown = repr(ALL) + repr(config_of(tmp_path))
    for secret in ("t0ken", "k3y", "d3v", "token-", "-key", "s3cret"):
        assert secret not in shown


@pytest.mark.parametrize("tail", ["page", "end"])
async def test_imports_want_an_applications_token_and_say_so_to_a_key(tail: str) -> None:
    path = f"{BASE}/imports/{tail}"
    async with talking(ALL) as talk:
        for query, status in (("", 401), ("?hapikey=wrong", 401), ("?hapikey=k3y", 403)):
            assert (await talk.ask("POST", path + query, {})).status == status
        refused = await talk.ask("POST", f"{path}?hapikey=d3v", {})
        assert refused.status == 403
        assert refused.body["category"] == "FORBIDDEN"
        assert "only available for application development" in refused.body["message"]
        assert (await talk.ask("POST", path, {}, headers=TOKEN)).status == 400


FILE = """
[[portals]]
id = 4711
api_keys = ["first-key", "second-key"]

[[apps]]
id = 7
client_secret = "s3cret"

[[apps]]
id = 8

[[tokens]]
token = "token-7"
app = 7
portal = 4711

[[tokens]]
token = "token-8"
app = 8

[[tokens]]
token = "token-8-reads-only"
app = 8
scopes = ["contacts"]

[[developer_keys]]
key = "developer-key"
apps = [7]
"""


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def config_of(directory: Path, text: str = FILE) -> BridgeConfig:
    """A bridge with the credentials of a file."""
    path = directory / "credentials.toml"
    path.write_text(text)
    content = read_credentials(path)
    assert content.portal_id is not None
    assert content.first_app_id is not None
    return BridgeConfig(
        settings=SETTINGS,
        register=content.register,
        portal_id=content.portal_id,
        app_id=content.first_app_id,
    )


async def test_each_token_of_a_file_stands_for_its_application(tmp_path: Path) -> None:
    path = f"{BASE}/sync/messages"
    async with talking(config_of(tmp_path)) as talk:
        talk.session.headers.update(bearer("token-7"))
        for token in ("token-7", "token-8"):
            for object_type, message in (
                ("CONTACT", contact("c")),
                ("PRODUCT", upsert("p", name="p")),
                ("DEAL", deal(token, stage="nowhere")),
            ):
                body = {"storeId": "default", "objectType": object_type, "messages": [message]}
                answer = await talk.ask("PUT", path, body, headers=bearer(token))
                assert answer.status == 204
            await talk.settled()
        # "Only contacts can have multiple source app IDs."
        of_contact = (await talk.thing("CONTACT", "c"))["properties"]
        of_product = (await talk.thing("PRODUCT", "p"))["properties"]
        assert of_contact["ip__ecomm_bridge__source_app_id"] == "7;8"
        assert of_product["ip__ecomm_bridge__source_app_id"] == "8"
        for token in ("token-7", "token-8"):
            answer = await talk.ask("GET", f"{BASE}/sync/errors", headers=bearer(token))
            (error,) = answer.body["results"]
            assert (error["externalObjectId"], error["portalId"]) == (token, 4711)


async def test_each_key_of_a_file_opens_what_is_its_own(tmp_path: Path) -> None:
    async with talking(config_of(tmp_path)) as talk:

        async def status(path: str, key: str) -> int:
            return (await talk.ask("GET", f"{path}hapikey={key}")).status

        for key in ("first-key", "second-key"):
            assert await status(f"{BASE}/sync/errors/portal?", key) == 200
            assert await status(f"{BASE}/settings?appId=7&", key) == 401
        assert await status(f"{BASE}/settings?appId=7&", "developer-key") == 404
        assert await status(f"{BASE}/settings?appId=8&", "developer-key") == 403
        assert await status(f"{BASE}/sync/errors/app/7?", "developer-key") == 200
        assert await status(f"{BASE}/sync/errors/app/8?", "developer-key") == 403
        assert await status(f"{BASE}/stores?", "third-key") == 401


async def test_a_token_without_the_scope_is_a_403_with_its_own_category(tmp_path: Path) -> None:
    async with talking(config_of(tmp_path)) as talk:
        for path in (f"{BASE}/stores", "/_bridge/stats"):
            answer = await talk.ask("GET", path, headers=bearer("token-8-reads-only"))
            assert answer.status == 403
            assert answer.body["category"] == "MISSING_SCOPES"
            assert "integration-sync" in answer.body["message"]


async def test_an_import_belongs_to_its_application_and_is_signed_with_its_secret(
    tmp_path: Path,
) -> None:
    async with shop() as application, talking(config_of(tmp_path)) as talk:
        talk.session.headers.update(bearer("token-7"))
        settings = SETTINGS | {"webhookUri": f"{application.url}/import"}
        assert (await talk.ask("PUT", f"{BASE}/settings", settings)).status == 200
        one = await started(talk)
        assert one["appId"] == 7
        ((_, asked, headers, _),) = application.asked
        assert asked["portalId"] == 4711
        assert "x-hubspot-signature" in headers
        body = page(one, "PRODUCT", 0, upsert("p", name="p"))
        other = await talk.ask("POST", PAGE, body, headers=bearer("token-8"))
        assert other.status == 400
        assert "no import" in other.body["message"]
        assert (await talk.ask("POST", PAGE, body, headers=bearer("token-7"))).status == 204
        unknown = await talk.ask("POST", "/_bridge/imports", {"storeId": "default", "appId": 9})
        assert unknown.status == 400
        assert unknown.body["errors"][0]["in"] == "appId"
        await started(talk, appId=8)
        assert "x-hubspot-signature" not in application.asked[1][2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[portals]", "line 1"),
        ("[[portals]]\nid = 'x'", "$.portals[0].id"),
        ("[[portals]]\nid = 1\nname = 'x'", "name"),
        ("[[apps]]\nid = 0", "$.apps[0].id"),
        ("[[tokens]]\ntoken = ''\napp = 1", "$.tokens[0].token"),
        ("", "no token and no key"),
        ("[[apps]]\nid = 1\nclient_secret = 's'", "no token and no key"),
        ("[[tokens]]\ntoken = 'hidden'\napp = 1", "application 1 is not listed"),
        ("[[developer_keys]]\nkey = 'hidden'\napps = [5]", "application 5 is not listed"),
        ("[[apps]]\nid = 1\n[[apps]]\nid = 1", "an application is listed twice"),
        (
            "[[portals]]\nid = 1\napi_keys = ['hidden', 'hidden']",
            "a token or key is listed twice",
        ),
        (
            "[[portals]]\nid = 1\napi_keys = ['a']\n[[portals]]\nid = 2",
            "portals 1, 2: a bridge serves one portal; start another bridge for each",
        ),
        (
            "[[portals]]\nid = 1\n[[apps]]\nid = 1\n[[tokens]]\ntoken = 'a'\napp = 1\nportal = 2",
            "portals 1, 2",
        ),
    ],
)
def test_a_file_of_credentials_that_makes_no_sense_is_refused_without_a_secret(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text(text)
    with pytest.raises(CredentialsError) as caught:
        read_credentials(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_file_of_credentials_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="No such file"):
        read_credentials(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialsError):
        read_credentials(tmp_path / "binary.toml")


async def test_the_command_takes_the_file_and_adds_the_flags_to_it(tmp_path: Path) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text(FILE)
    async with bridge("--credentials", str(path), "--token", "flag", "-v") as (process, talk):
        for token in ("flag", "token-7", "token-8"):
            answer = await talk.ask("GET", "/_bridge/portal", headers=bearer(token))
            assert answer.body == {"portalId": 4711, "active": True}
        assert (await talk.ask("GET", "/_bridge/portal")).status == 401
        process.terminate()
        _, err = await process.communicate()
        assert b"token-" not in err


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        (FILE, ("--portal-id", "5"), "--portal-id is 5"),
        (FILE + "[[portals]]\nid = 1", (), "a bridge serves one portal"),
        ("[[apps]]\nid = 1", (), "no token and no key"),
    ],
)
def test_the_command_refuses_credentials_that_make_no_sense_with_exit_2(
    tmp_path: Path, text: str, flags: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text(text)
    result = run("--port", "0", "--credentials", str(path), *flags)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--token", "hidden-token"), "a token or key is listed twice"),
        (("--api-key", "hidden-key"), "a token or key is listed twice"),
        (("--developer-key", "hidden-dev"), "a token or key is listed twice"),
        (("--token", "hidden-dev"), "a token or key is listed twice"),
        (("--token", "hidden", "--api-key", "hidden"), "a token or key is listed twice"),
        (("--client-secret", "hidden"), "the client secret of application 7 is listed twice"),
    ],
)
def test_a_credential_that_is_in_the_file_and_a_flag_is_refused_without_the_secret(
    tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text(
        "[[portals]]\nid = 1\napi_keys = ['hidden-key']\n"
        "[[apps]]\nid = 7\nclient_secret = 'old'\n"
        "[[tokens]]\ntoken = 'hidden-token'\napp = 7\n"
        "[[developer_keys]]\nkey = 'hidden-dev'\napps = [7]\n"
    )
    result = run("--port", "0", "--credentials", str(path), *flags)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert "hidden" not in result.output


async def test_headers_and_addresses_over_the_limits_are_a_400_and_the_bridge_goes_on() -> None:
    """In plain text: aiohttp answers it before any of the bridge's own code runs."""
    long = "x" * 20_000
    async with talking() as talk:
        for path, headers in (("/_bridge/stats", {"X-Long": long}), (f"/{long}", {})):
            async with talk.session.get(f"{talk.url}{path}", headers=headers) as answer:
                assert answer.status == 400
        assert await talk.stats()


LOOPBACK = ("localhost", "LOCALHOST:80", "127.0.0.1", "127.8.9.10:8080", "[::1]", "[::1]:8080")
FOREIGN = ("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example")
ODD = ("192.0.2.1", "0.0.0.0", "[::2]:80", "[localhost]", "::1", "a b", "", "127.0.0.1:80:80")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "surprise"])
@pytest.mark.parametrize("credentials", [Credentials(), Credentials("t0ken")])
async def test_a_page_of_another_site_can_read_nothing_new_and_change_nothing(
    site: str, credentials: Credentials
) -> None:
    headers = {"Sec-Fetch-Site": site} | bearer("t0ken")
    async with talking(BridgeConfig(settings=SETTINGS, credentials=credentials)) as talk:
        for method, path in (
            ("PUT", f"{BASE}/sync/messages"),
            ("POST", "/_bridge/imports"),
            ("DELETE", f"{BASE}/settings"),
            ("DELETE", "/nowhere"),
        ):
            answer = await talk.ask(method, path, {}, headers=headers)
            assert (answer.status, answer.body["category"]) == (403, "FORBIDDEN")
            assert answer.body["status"] == "error"
        settings = await talk.ask("GET", f"{BASE}/settings", headers=headers)
        assert (settings.status, settings.body) == (200, SETTINGS)


@pytest.mark.parametrize("site", ["same-origin", "none", None])
async def test_the_console_and_clients_that_are_no_browsers_may_change_things(
    site: str | None,
) -> None:
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    async with talking() as talk:
        answer = await talk.ask("PUT", "/_bridge/portal", {"active": False}, headers=headers)
        assert answer.status == 200


@pytest.mark.parametrize("host", [*FOREIGN, *ODD])
async def test_an_open_bridge_is_not_to_be_had_by_a_name_that_is_not_loopback(host: str) -> None:
    async with talking() as talk:
        for path in ("/", f"{BASE}/settings", "/_bridge/stats", "/openapi.json", "/nowhere"):
            answer = await talk.ask("GET", path, headers={"Host": host})
            assert (answer.status, answer.body["category"]) == (403, "FORBIDDEN")


@pytest.mark.parametrize("host", LOOPBACK)
async def test_an_open_bridge_answers_to_every_name_of_loopback(host: str) -> None:
    async with talking() as talk:
        assert (await talk.ask("GET", "/_bridge/stats", headers={"Host": host})).status == 200


async def test_a_request_without_a_host_is_taken() -> None:
    async with talking() as talk:
        port = int(talk.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /_bridge/stats HTTP/1.0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()


async def test_a_bridge_with_credentials_answers_to_every_name() -> None:
    async with talking(BridgeConfig(credentials=Credentials("t0ken"))) as talk:
        headers = {"Host": "bridge.example"} | bearer("t0ken")
        assert (await talk.ask("GET", "/_bridge/stats", headers=headers)).status == 200
