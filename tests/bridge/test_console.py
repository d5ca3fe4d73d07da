"""The console page, in a real browser where there is one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import web
from fakes.browser import ARGUMENTS, CHROMIUM, WAIT_MS, needs_chromium

from pusher.bridge import BridgeConfig
from pusher.bridge.config import Credentials

from .talk import BASE, SETTINGS, Talk, contact, deal, talking, upsert

playwright = pytest.importorskip(
    "playwright.async_api", reason="playwright is not installed: no browser to drive"
)
SCRIPT = "<script>document.title = 'taken over'</script>"
IMAGE = "<img src=x onerror=\"document.title = 'taken over'\">"
NAMES = {"CONTACT": "Contacts", "PRODUCT": "Products", "DEAL": "Deals", "LINE_ITEM": "Line items"}


@dataclass
class Tab:
    """A page of the browser, and everything that went wrong in it."""

    page: Any
    problems: list[str] = field(default_factory=list)

    def has(self, locator: Any) -> Any:
        return playwright.expect(locator)

    def row(self, list_id: str, text: str) -> Any:
        """The rows of a list that hold this text."""
        return self.page.locator(f"#{list_id} > li").filter(has_text=text)

    async def show(self, object_type: str) -> None:
        await self.page.get_by_role("button", name=re.compile(f"^{NAMES[object_type]}")).click()
        title = f"Objects: {NAMES[object_type]}"
        await self.has(self.page.locator("#objects-title")).to_have_text(title)


@asynccontextmanager
async def browsing(
    talk: Talk, *, width: int = 1280, scheme: Literal["light", "dark"] = "light"
) -> AsyncIterator[Tab]:
    """The console of a bridge in a fresh browser; fails when the page had a problem."""
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            page = await browser.new_page(
                viewport={"width": width, "height": 800}, color_scheme=scheme
            )
            playwright.expect.set_options(timeout=WAIT_MS)
            page.set_default_timeout(WAIT_MS)
            tab = Tab(page)
            page.on("console", lambda said: tab.problems.append(f"{said.type}: {said.text}"))
            page.on("pageerror", lambda error: tab.problems.append(str(error)))
            page.on("dialog", lambda dialog: tab.problems.append(f"dialog {dialog.message}"))
            await page.goto(f"{talk.url}/")
            yield tab
            assert tab.problems == []
            assert await page.title() == "Ecommerce Bridge"
        finally:
            await browser.close()


@needs_chromium
async def test_objects_appear_live_after_a_push_with_their_mapped_properties(talk: Talk) -> None:
    async with browsing(talk) as tab:
        await tab.has(tab.page.locator("#no-objects")).to_have_text("Nothing has been synced yet.")
        await talk.send("CONTACT", contact("ana", first="Ana"))
        row = tab.row("objects", "ana")
        await tab.has(row).to_have_count(1)
        await row.locator("summary").click()
        await tab.has(row.locator("dl")).to_contain_text("emailana@example.com")
        await tab.has(row.locator("dl")).to_contain_text("firstnameAna")
        card = tab.page.get_by_role("button", name=re.compile("^Contacts"))
        await tab.has(card).to_contain_text("1 processed")
        # An update shows in the row that is open, and the row stays open.
        await talk.send("CONTACT", contact("ana", 2000, first="Anne"))
        await tab.has(row.locator("dl")).to_contain_text("firstnameAnne")
        await tab.has(row.locator("details")).to_have_attribute("open", "")


@needs_chromium
async def test_errors_show_their_details_and_can_be_filtered_by_type(talk: Talk) -> None:
    await talk.sync("CONTACT", upsert("c1", mail="nobody at home"))
    await talk.sync("DEAL", *(deal(f"d{n}", stage="lost") for n in range(9)))
    async with browsing(talk) as tab:
        await tab.has(tab.page.locator("#errors > li")).to_have_count(8)
        await tab.page.locator("#errors-on").click()
        await tab.has(tab.page.locator("#errors > li")).to_have_count(2)
        await tab.page.get_by_label("Error type").select_option("INVALID_EMAIL_ADDRESS")
        await tab.has(tab.page.locator("#errors > li")).to_have_count(1)
        row = tab.row("errors", "c1")
        await tab.has(row).to_contain_text("INVALID_EMAIL_ADDRESS")
        await tab.has(row).to_contain_text("Email address [nobody at home] is invalid")
        await talk.sync("CONTACT", contact("c1", 2000))
        await tab.has(tab.page.locator("#no-errors")).to_be_visible()


@needs_chromium
async def test_markup_in_a_message_is_shown_as_text_and_runs_nothing(talk: Talk) -> None:
    label = f"{IMAGE} shop"
    await talk.ask("PUT", f"{BASE}/stores", {"id": "<b>s</b>", "label": label})
    await talk.sync("DEAL", deal(f"{SCRIPT[:80]}", name=SCRIPT, text=IMAGE), store="<b>s</b>")
    await talk.sync("CONTACT", upsert(IMAGE, mail=SCRIPT))
    async with browsing(talk) as tab:
        await tab.has(tab.row("stores", label)).to_have_count(1)
        await tab.has(tab.row("errors", f"Email address [{SCRIPT}] is invalid")).to_have_count(1)
        await tab.show("DEAL")
        row = tab.row("objects", SCRIPT)
        await row.locator("summary").click()
        await tab.has(row.locator("dl")).to_contain_text(IMAGE)
        await tab.has(row.locator("summary")).to_contain_text("<b>s</b>")
        assert await tab.page.locator("main img, main script, main b").count() == 0


@needs_chromium
async def test_a_time_that_is_no_date_is_shown_as_its_number(talk: Talk) -> None:
    await talk.sync("CONTACT", contact("late", 2**63 - 1), upsert("bad", 2**63 - 1, mail="x"))
    async with browsing(talk) as tab:
        await tab.has(tab.page.locator("#live")).to_have_text("Live")
        row = tab.row("objects", "late")
        await row.locator("summary").click()
        await tab.has(row.locator("dl")).to_contain_text("Changed922337203685477")
        failed = tab.row("errors", "bad")
        await failed.locator("summary").click()
        await tab.has(failed.locator("dl")).to_contain_text("Changed922337203685477")


@needs_chromium
@pytest.mark.parametrize(("failing", "other"), [("objects", "errors"), ("errors", "objects")])
async def test_a_list_that_cannot_be_asked_for_does_not_keep_the_other_from_showing(
    talk: Talk, failing: str, other: str
) -> None:
    async with browsing(talk) as tab:
        await tab.has(tab.page.locator("#live")).to_have_text("Live")
        await tab.page.route(
            f"**/_bridge/{failing}**", lambda route: route.fulfill(status=200, body="no JSON")
        )
        await talk.sync("CONTACT", contact("good"), upsert("bad", mail="x"))
        await tab.has(tab.row(other, "good" if other == "objects" else "bad")).to_have_count(1)
        await tab.has(tab.page.locator("#live")).to_have_attribute("data-state", "lost")
        await tab.page.unroute_all()
        await tab.has(tab.row(failing, "good" if failing == "objects" else "bad")).to_have_count(1)


@needs_chromium
async def test_long_details_and_labels_scroll_in_a_box_of_their_own(talk: Talk) -> None:
    await talk.ask("PUT", f"{BASE}/stores", {"id": "wordy", "label": "L" * 20_000})
    await talk.sync("DEAL", deal("1", stage="x" * 20_000))
    async with browsing(talk, width=320) as tab:
        for text in (tab.row("errors", "xxx").locator(".details"), tab.row("stores", "LLL")):
            await tab.has(text).to_have_count(1)
            box = await text.bounding_box()
            assert box is not None
            assert box["height"] < 400
        width = await tab.page.evaluate("() => document.documentElement.scrollWidth")
        assert width == 320


@needs_chromium
async def test_objects_are_found_by_the_beginning_of_their_id_and_by_store_and_paged(
    talk: Talk,
) -> None:
    await talk.ask("PUT", f"{BASE}/stores", {"id": "shop", "label": "Shop"})
    await talk.sync("PRODUCT", *(upsert(f"p{n:02}", name="tea") for n in range(45)))
    await talk.sync("PRODUCT", upsert("p07-shop", name="tea"), store="shop")
    async with browsing(talk) as tab:
        await tab.show("PRODUCT")
        rows = tab.page.locator("#objects > li")
        await tab.has(rows).to_have_count(20)
        following = tab.page.locator("#objects-on")
        for page, first in ((2, "p20"), (3, "p40")):
            await following.click()
            await tab.has(tab.page.locator("#objects-page")).to_have_text(f"Page {page}")
            await tab.has(rows.first).to_contain_text(first)
        await tab.has(following).to_be_disabled()
        await tab.page.locator("#objects-back").click()
        await tab.has(rows.first).to_contain_text("p20")
        search = tab.page.get_by_label("External id begins with")
        await search.fill("p07")
        await tab.has(rows).to_have_count(2)
        await tab.page.locator("#store").select_option("shop")
        await tab.has(rows).to_have_count(1)
        await tab.has(rows).to_contain_text("p07-shop")
        await search.fill("nothing like it")
        await tab.has(tab.page.locator("#no-objects")).to_have_text("Nothing is found.")


@needs_chromium
async def test_a_waiting_queue_shows_its_depth_and_its_lag() -> None:
    config = BridgeConfig(settings=SETTINGS, processing_delay_s={"PRODUCT": 600})
    async with talking(config) as talk:
        await talk.send("PRODUCT", upsert("1", name="p"), upsert("2", name="p"))
        async with browsing(talk) as tab:
            card = tab.page.get_by_role("button", name=re.compile("^Products"))
            await tab.has(card).to_contain_text(re.compile(r"2 queued, lag \d"))


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_everything_without_scrolling_sideways(
    talk: Talk, scheme: Literal["light", "dark"]
) -> None:
    long_id = "i" * 100
    await talk.ask("PUT", f"{BASE}/stores", {"id": "s" * 60, "label": "L" * 200})
    await talk.sync("DEAL", deal(long_id, text="w" * 500), deal(f"{long_id[:99]}2", stage="x" * 90))
    async with browsing(talk, width=320, scheme=scheme) as tab:
        await tab.show("DEAL")
        await tab.row("objects", long_id).locator("summary").click()
        await tab.row("errors", "x" * 90).locator("summary").click()
        page_width = await tab.page.evaluate("() => document.documentElement.scrollWidth")
        assert page_width == 320
        ground = await tab.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        is_dark = int(ground.removeprefix("rgb(").split(",")[0]) < 128
        assert is_dark == (scheme == "dark")


@needs_chromium
async def test_everything_can_be_reached_and_done_by_keyboard(talk: Talk) -> None:
    await talk.sync("DEAL", deal("d1", name="Order 1"))
    async with browsing(talk) as tab:
        await tab.has(tab.page.locator("#live")).to_have_text("Live")
        for _ in range(3):
            await tab.page.keyboard.press("Tab")
        await tab.page.keyboard.press("Enter")
        await tab.has(tab.row("objects", "d1")).to_have_count(1)
        for _ in range(4):  # Line items, store, search, the object.
            await tab.page.keyboard.press("Tab")
        await tab.page.keyboard.press("Enter")
        await tab.has(tab.row("objects", "d1").locator("dl")).to_contain_text("dealnameOrder 1")


@needs_chromium
async def test_with_credentials_the_page_asks_first_and_keeps_the_secret_in_memory_only() -> None:
    config = BridgeConfig(settings=SETTINGS, credentials=Credentials("t0ken", "k3y"))
    async with talking(config) as talk:
        for kind, secret in (("OAuth token", "t0ken"), ("hapikey", "k3y")):
            async with browsing(talk) as tab:
                await tab.has(tab.page.locator("#console")).to_be_hidden()
                await tab.page.get_by_label("Kind").select_option(kind)
                await tab.page.get_by_label("Secret").fill(secret)
                await tab.page.keyboard.press("Enter")
                await tab.has(tab.page.locator("#console")).to_be_visible()
                kept = await tab.page.evaluate(
                    "() => [localStorage.length, sessionStorage.length, document.cookie.length,"
                    " location.href.length, document.getElementById('secret').value.length]"
                )
                assert kept == [0, 0, 0, len(talk.url) + 1, 0]
                await tab.page.reload()
                await tab.has(tab.page.get_by_label("Secret")).to_be_visible()
                await tab.has(tab.page.locator("#console")).to_be_hidden()


@needs_chromium
async def test_a_wrong_credential_is_told_and_asked_for_again() -> None:
    config = BridgeConfig(credentials=Credentials("t0ken"))
    async with talking(config) as talk, browsing(talk) as tab:
        await tab.page.get_by_label("Secret").fill("wrong")
        await tab.page.get_by_role("button", name="Open the console").click()
        await tab.has(tab.page.get_by_role("alert").first).to_contain_text("not valid")
        # The browser itself reports the 401s.
        assert tab.problems
        assert all("401" in problem for problem in tab.problems)
        tab.problems.clear()


@needs_chromium
async def test_an_import_is_started_in_the_page_and_its_progress_shown() -> None:
    async with importer() as (webhook, calls):
        settings = SETTINGS | {"webhookUri": webhook}
        async with talking(BridgeConfig(settings=settings)) as talk, browsing(talk) as tab:
            button = tab.page.get_by_role("button", name="Continue importing store default")
            await button.click()
            await tab.has(tab.row("stores", "default")).to_contain_text("Receiving")
            await tab.has(button).to_be_disabled()
            started = calls[0]["importStartedAt"]
            await send_page(talk, started, "PRODUCT", 3)
            bar = tab.page.get_by_role("progressbar", name="Products: received")
            await tab.has(bar).to_have_attribute("max", "3")
            await tab.has(bar).to_have_js_property("value", 3)
            await end_all(talk, started, {"PRODUCT": 3})
            await tab.has(tab.row("stores", "default")).to_contain_text("Done")
            bar = tab.page.get_by_role("progressbar", name="Products: processed")
            await tab.has(bar).to_have_js_property("value", 3)
            await tab.has(button).to_be_enabled()


@needs_chromium
async def test_an_import_that_cannot_start_says_why(talk: Talk) -> None:
    async with browsing(talk) as tab:
        await tab.page.get_by_role("button", name="Continue importing store default").click()
        await tab.has(tab.page.locator("#import-problem")).to_contain_text("webhookUri")
        # The browser itself reports the 400.
        assert all("400" in problem for problem in tab.problems)
        tab.problems.clear()


@asynccontextmanager
async def importer() -> AsyncIterator[tuple[str, list[Any]]]:
    """An application's webhook that counts three products; its address and what it was sent."""
    calls: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        call = await request.json()
        calls.append(call)
        counts = [
            {
                "settingsId": one["settingsId"],
                "count": 3 if one["objectType"] == "PRODUCT" else 0,
            }
            for one in call["settingsToImport"]
        ]
        return web.json_response({"importCounts": counts})

    app = web.Application()
    app.router.add_post("/webhook", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/webhook", calls
    finally:
        await runner.cleanup()


async def send_page(talk: Talk, started_at: int, object_type: str, count: int) -> None:
    body = {
        "importStartedAt": started_at,
        "pageNumber": 0,
        "storeId": "default",
        "objectType": object_type,
        "messages": [
            {"externalObjectId": str(number), "properties": {"name": "p"}, "associations": {}}
            for number in range(count)
        ],
    }
    answer = await talk.ask("POST", f"{BASE}/imports/page", body)
    assert answer.status == 204, answer


async def end_all(talk: Talk, started_at: int, items: dict[str, int]) -> None:
    for object_type in NAMES:
        count = items.get(object_type, 0)
        body = {
            "importStartedAt": started_at,
            "pageCount": 1 if count else 0,
            "itemCount": count,
            "storeId": "default",
            "objectType": object_type,
        }
        answer = await talk.ask("POST", f"{BASE}/imports/end", body)
        assert answer.status == 204, answer


async def test_the_page_may_load_nothing_from_elsewhere_and_run_nothing_inline(
    talk: Talk,
) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/_bridge/console.js", "text/javascript"),
        ("/_bridge/console.css", "text/css"),
        ("/_bridge/console.svg", "image/svg+xml"),
    ):
        async with talk.session.get(talk.url + path) as answer:
            assert answer.status == 200
            assert answer.content_type == kind
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            text = await answer.text()
        # The one address in them is the name of SVG's XML namespace.
        addresses = set(re.findall(r"https?://[^\"'\s>]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in text
        assert " style=" not in text


async def test_the_page_needs_no_credential_but_what_it_shows_does() -> None:
    async with talking(BridgeConfig(credentials=Credentials("t0ken"))) as talk:
        async with talk.session.get(f"{talk.url}/") as answer:
            assert answer.status == 200
            assert "t0ken" not in await answer.text()
        for path in ("/_bridge/overview", "/_bridge/errors", "/_bridge/objects/DEAL"):
            assert (await talk.ask("GET", path)).status == 401


async def test_the_overview_has_the_account_its_stores_and_the_counts(talk: Talk) -> None:
    await talk.sync("PRODUCT", upsert("1", name="p"))
    overview = await talk.get("/_bridge/overview")
    assert overview["portalId"] == 62515
    assert overview["active"] is True
    assert [store["id"] for store in overview["stores"]] == ["default"]
    assert overview["types"] == await talk.stats()
    assert overview["types"]["PRODUCT"]["lagMs"] == 0


async def test_the_lag_is_the_age_of_the_oldest_message_that_waits() -> None:
    config = BridgeConfig(settings=SETTINGS, processing_delay_s={"PRODUCT": 600})
    async with talking(config) as talk:
        await talk.send("PRODUCT", upsert("1", name="p"))
        await asyncio.sleep(0.05)
        await talk.send("PRODUCT", upsert("2", name="p"))
        stats = await talk.stats()
        assert 50 <= stats["PRODUCT"]["lagMs"] < 20_000
        assert stats["DEAL"]["lagMs"] == 0


async def test_a_prefix_finds_ids_in_every_store_and_stays_within_a_given_one(talk: Talk) -> None:
    for store in ("a", "b"):
        await talk.ask("PUT", f"{BASE}/stores", {"id": store, "label": store})
        await talk.sync("PRODUCT", upsert("p1", name="p"), upsert("p10", name="p"), store=store)
        await talk.sync("PRODUCT", upsert("p2", name="p"), store=store)

    async def found(query: str) -> list[tuple[str, str]]:
        results: list[dict[str, str]] = []
        after = ""
        while True:  # In pages of one, to see that the cursor keeps to the search.
            path = f"/_bridge/objects/PRODUCT?limit=1&{query}{after}"
            page = await talk.get(path)
            results += page["results"]
            if "paging" not in page:
                return [(one["storeId"], one["externalObjectId"]) for one in results]
            after = f"&after={page['paging']['next']['after']}"

    assert await found("prefix=p1") == [("a", "p1"), ("a", "p10"), ("b", "p1"), ("b", "p10")]
    assert await found("prefix=p1&storeId=b") == [("b", "p1"), ("b", "p10")]
    assert await found("externalObjectId=p2") == [("a", "p2"), ("b", "p2")]
    assert await found("prefix=q") == []


async def test_a_client_that_is_no_browser_gets_the_page_too(talk: Talk) -> None:
    async with aiohttp.ClientSession() as session, session.head(f"{talk.url}/") as answer:
        assert answer.status == 200
