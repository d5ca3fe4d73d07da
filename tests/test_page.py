"""The report for people: what is in the page, and how it looks and works in a real browser."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from aiohttp import web
from fakes.browser import Scheme, needs_chromium, opened
from fakes.command import (
    PUSHER,
    ended,
    files_in,
    message,
    ndjson,
    run,
    starting,
)
from fakes.endpoint import Endpoint, Request, accept, refuse, running_endpoint, until

from pusher import page_file
from pusher.cli.running import shown_command
from pusher.errors import DiskError
from pusher.page import page_of, shown
from pusher.plotting import Line, count_label, line_plot, time_label
from pusher.report import Report

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
STORES = {
    "markup": "<script>document.title = 'taken over'</script>",
    "image": "<img src=x onerror=\"document.title='taken over'\">",
    "lines": "two\nlines",
    "turned": "\u202etxt.exe",
    "arabic": "\u0645\u062a\u062c\u0631",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 shop",
    "quotes": "\"'`&amp;",
}
SECRET = "s3cret/t0ken+x="


def lines_of_all_stores() -> bytes:
    entries: list[dict[str, Any]] = []
    for weight, store in enumerate(STORES.values(), 1):
        entries += [message(number, storeId=store) for number in range(weight * 10)]
    entries += [message(1, objectType="<b>bold</b>"), message(2, externalObjectId="\u00e9<i>")]
    return ndjson(entries) + b"{<u>\n"


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose data try everything."""
    folder = tmp_path_factory.mktemp("nasty")
    asyncio.run(push_everything(folder))
    return folder / "run.html"


async def push_everything(folder: Path) -> None:
    async def answer(request: Request) -> web.StreamResponse:
        if request.number == 0:
            return web.Response(status=503)
        await asyncio.sleep(0.3)  # Too short a run has nothing to plot.
        if request.lane[0] == STORES["image"] and "id3" in request.ids:
            return refuse(message="<b>id3</b> is not <i>wanted</i>")
        return await accept(request)

    async with running_endpoint() as endpoint:
        endpoint.answer = answer
        arguments = ("--url", endpoint.url, "--html", "run.html", "--report", "run.json")
        result = await run("push", *arguments, cwd=folder, stdin=lines_of_all_stores())
    assert result.code == 1, result.err


# What is in it.


async def test_the_page_of_a_run_and_the_page_of_its_report_are_the_same(
    nasty: Path, tmp_path: Path
) -> None:
    report = nasty.with_name("run.json")
    again = await run("report", report, "--html", "again.html", cwd=tmp_path)
    assert again.code == 0, again.err
    assert text_of(tmp_path / "again.html") == text_of(nasty)
    assert files_in(tmp_path) == ["again.html"]
    assert files_in(nasty.parent) == ["pusher.dead.ndjson", "run.html", "run.json"]


def test_nothing_of_the_data_is_markup(nasty: Path) -> None:
    page = text_of(nasty)
    body = page[page.index("<body>") :]
    assert body.count("<script>") == 1  # Ours.
    assert "<img" not in body
    assert not re.search(r"<(b|i|u)>", body)
    assert "&lt;script&gt;document.title = &#x27;taken over&#x27;&lt;/script&gt;" in body
    assert "&lt;b&gt;id3&lt;/b&gt; is not &lt;i&gt;wanted&lt;/i&gt;" in body
    assert "two\\nlines" in body
    assert "\\u202etxt.exe" in body
    assert "\u202e" not in body
    assert STORES["arabic"] in body
    assert STORES["emoji"] in body


def test_the_facts_of_the_report_are_in_the_page(nasty: Path) -> None:
    report = json.loads(nasty.with_name("run.json").read_bytes())
    text = re.sub(r"<[^>]+>", " ", text_of(nasty))
    messages = report["messages"]
    assert f"{messages['delivered']:,} of {messages['read']:,} messages delivered" in text
    assert "\u2717 rejected" in text
    for reason in ("not_json", "unknown_type", "bad_id", "refused"):
        assert reason in text
    for title in ("Over time", "Throughput", "Requests in flight", "Latency", "Lanes", "Rejected"):
        assert title in text
    assert f"{report['confirmation']['confirmed']:,} of" in text
    assert "With 95 % confidence at most" in text
    assert report["run_id"] in text


def test_a_policy_lets_only_the_pages_own_style_and_script_run() -> None:
    page = page_of(readme_report(), style="a{}", script="1;")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert "http" not in re.sub(r"http://127\.0\.0\.1:\d+|http-equiv", "", page)


def readme_report() -> Report:
    (text,) = [
        block
        for block in re.findall(r"^```json\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
        if '"outcome"' in block
    ]
    return Report.from_json(text.encode())


def test_a_report_of_an_older_version_has_a_page_too() -> None:
    report = readme_report()
    new = ("rejected_examples", "constraint", "run", "series")
    fields = {name: one for name, one in msgspec.to_builtins(report).items() if name not in new}
    page = page_of(Report.from_json(msgspec.json.encode(fields)), style="", script="")
    assert "messages delivered</h1>" in page
    assert "Over time" not in page


def test_a_report_of_a_later_version_has_a_page_too() -> None:
    fields = msgspec.to_builtins(readme_report())
    fields |= {"outcome": "<new>", "moon": {"rounds": 1}, "constraint": {"<moon>": 1.0}}
    page = page_of(Report.from_json(msgspec.json.encode(fields)), style="", script="")
    assert "&lt;new&gt;" in page
    assert "&lt;moon&gt;" in page
    assert "<moon>" not in page


def test_what_was_repaired_and_what_is_left_is_in_the_page() -> None:
    report = readme_report()
    assert report.repair is not None
    left = {
        "store_id": "<s>",
        "object_type": "DEAL",
        "external_object_id": "17",
        "type": "UNKNOWN_ERROR",
        "details": "no & never",
    }
    repair = msgspec.structs.replace(report.repair, examples=[left])
    page = page_of(msgspec.structs.replace(report, repair=repair), style="", script="")
    for text in ("Repair", "INVALID_ASSOCIATION_PROPERTY", "&lt;s&gt;", "17", "no &amp; never"):
        assert text in page
    none = page_of(msgspec.structs.replace(report, repair=None), style="", script="")
    assert "INVALID_ASSOCIATION_PROPERTY" not in none


def test_a_thousand_lanes_are_listed_and_the_rest_is_counted() -> None:
    report = readme_report()
    lanes = [
        msgspec.structs.replace(report.lanes[0], store_id=f"s{number}") for number in range(1_000)
    ]
    report = msgspec.structs.replace(report, lanes=lanes, lanes_total=12_345)
    page = page_of(report, style="", script="")
    assert "the 1,000 largest of 12,345" in page
    assert page.count("<bdi>s") == 1_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a & b", "a &amp; b"),
        ('"x"', "&quot;x&quot;"),
        ("\x00\x1b[1m", "\\x00\\x1b[1m"),
        ("\ud800", "\\ud800"),
        ("\u2066left", "\\u2066left"),
        (7, "7"),
    ],
)
def test_text_is_shown_as_it_is(text: object, expected: str) -> None:
    assert shown(text) == expected


# Plots.


def test_a_line_has_a_gap_where_there_is_no_value_and_a_dot_where_it_stands_alone() -> None:
    line = Line("x", "first", [1.0, 2.0, None, 3.0, None])
    plot = line_plot("Title <b>", [1, 2, 3, 4, 5], [line], end_s=5)
    (path,) = re.findall(r'class="line first" d="([^"]+)"', plot)
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert plot.count("<circle") == 1
    assert "Title &lt;b&gt;" in plot


@pytest.mark.parametrize("largest", [0.0, 0.001, 0.3, 1.0, 7.0, 12.0, 99.9, 1_000.0, 54_321.0, 1e9])
def test_an_axis_has_a_few_round_numbers_and_nothing_leaves_the_plot(largest: float) -> None:
    plot = line_plot("t", [1, 2], [Line("x", "first", [0.0, largest])], end_s=2)
    ticks = re.findall(r'class="tick end" x="48" y="[\d.]+">([^<]+)<', plot)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] == "0"
    assert len(set(ticks)) == len(ticks)
    points = re.findall(r"[\d.]+ ([\d.]+)", re.findall(r'line first" d="M([^"]+)"', plot)[0])
    assert all(12 <= float(y) <= 164 for y in points)


@pytest.mark.parametrize("end_s", [0.05, 1.0, 7.0, 59.0, 61.0, 3_600.0, 86_400.0, 1e7])
def test_the_time_axis_has_at_most_seven_marks(end_s: float) -> None:
    plot = line_plot("t", [end_s], [Line("x", "first", [1.0])], end_s=end_s)
    marks = re.findall(r'class="tick(?: middle| end)?" x="([\d.]+)" y="182"', plot)
    assert 2 <= len(marks) <= 7
    assert all(float(b) - float(a) > 50 for a, b in pairwise(marks))


def test_labels_are_short() -> None:
    assert [count_label(value) for value in (0, 0.25, 950, 1_500, 2e7, 3e9)] == [
        "0",
        "0.25",
        "950",
        "1.5k",
        "20M",
        "3G",
    ]
    assert [time_label(value) for value in (0.5, 30, 630, 7_500)] == [
        "0.5 s",
        "30 s",
        "10:30",
        "2:05 h",
    ]


# Secrets.


@pytest.mark.parametrize(
    "arguments",
    [
        ("--token", SECRET),
        (f"--token={SECRET}",),
        ("--api-key", SECRET),
        ("--no-preflight", "--token", SECRET),
        ("-v", "--phases", "--api-key", f"--{SECRET}"),
        ("--header", f"Authorization: Bearer {SECRET}"),
        (f"--header=X-Key={SECRET}",),
        ("--refresh-token", SECRET, "--client-secret", SECRET),
        (f"kafka://user:{SECRET}@host/topic",),
        ("--url", f"https://user:{SECRET}@host/"),
        (f"--token-url=https://host/?client_secret={SECRET}",),
        ("--dead-letters-topic", f"kafka://u:{SECRET}@h:1/t"),
    ],
)
def test_a_command_is_shown_without_its_secrets(arguments: tuple[str, ...]) -> None:
    text = shown_command(["push", *arguments, "--linger", "2s", "in.ndjson"])
    assert "s3cret" not in text
    assert "t0ken" not in text
    assert text.startswith("pusher push ")
    assert text.endswith("--linger 2s in.ndjson")


async def test_neither_report_has_a_secret(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "refresh").write_text(f"{SECRET}refresh")
    proxy = f"http://user:{quote(SECRET + 'proxy', safe='')}@127.0.0.1:9"
    result = await run(
        *("push", "--url", endpoint.url, "--token", f"{SECRET}token"),
        *("--header", f"X-Secret: {SECRET}header", "--refresh-token-file", "refresh"),
        *("--client-id", "me", "--client-secret", f"{SECRET}client", "--confirm", "0"),
        *("--html", "run.html", "--report", "run.json"),
        cwd=tmp_path,
        stdin=ndjson([message(1)]),
        env={"HTTPS_PROXY": proxy, "PUSHER_API_KEY_FILE": ""},
    )
    assert result.code in {0, 2}
    if result.code == 2:
        pytest.fail(result.err)
    for name in ("run.html", "run.json"):
        text = (tmp_path / name).read_text("utf-8")
        assert "s3cret" not in text
        assert "t0ken" not in text
    report = json.loads((tmp_path / "run.json").read_bytes())
    assert report["run"]["settings"]["token"] is True
    assert report["run"]["settings"]["headers"] is True
    assert "--token '***'" in report["run"]["command"]


# When it is written.


async def test_an_interrupted_run_leaves_a_whole_page(endpoint: Endpoint, tmp_path: Path) -> None:
    argv = (*PUSHER, "push", "--url", endpoint.url, "--html", "run.html", "--rate", "5")
    (tmp_path / "run.html").write_text("an older page")
    (tmp_path / "in").write_bytes(ndjson(message(number) for number in range(5_000)))
    async with starting(*argv, "in", "--drain-timeout", "0s", cwd=tmp_path) as process:
        await until(lambda: len(endpoint.accepted) > 2, within_s=20)
        process.send_signal(signal.SIGTERM)
        result = await ended(process, within_s=20)
    assert result.code == 143
    page = (tmp_path / "run.html").read_text("utf-8")
    assert page.endswith("</html>\n")
    assert "\u25a0 interrupted" in page
    assert "interrupted by SIGTERM" in page


async def test_a_stopped_run_leaves_a_page_that_says_why(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    async def answer(request: Request) -> web.StreamResponse:
        del request
        return refuse(401, "the token <expired>")

    endpoint.answer = answer
    arguments = ("--url", endpoint.url, "--html", "run.html", "--no-preflight")
    result = await run("push", *arguments, cwd=tmp_path, stdin=ndjson([message(1)]))
    assert result.code == 3
    page = (tmp_path / "run.html").read_text("utf-8")
    assert "\u25a0 stopped" in page
    assert "the token &lt;expired&gt;" in page


async def test_a_full_disk_is_warned_about_and_changes_no_outcome(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    arguments = ("--url", endpoint.url, "--html", "/dev/full", "--confirm", "0")
    result = await run("push", *arguments, cwd=tmp_path, stdin=ndjson([message(1)]))
    assert result.code == 0
    assert (
        "warning: --html: the page was not written: /dev/full: No space left on device"
        in result.err
    )


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_a_page_that_cannot_be_written_leaves_the_old_one(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.html"
    path.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(failing, full)
    with pytest.raises(DiskError, match="No space left"):
        page_file.write_page(readme_report(), path)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert files_in(tmp_path) == ["run.html"]


def test_a_page_takes_the_place_of_an_older_one_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "real.html").chmod(0o640)
    (tmp_path / "link.html").symlink_to("real.html")
    page_file.write_page(readme_report(), tmp_path / "link.html")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "real.html").stat().st_mode & 0o777 == 0o640
    assert files_in(tmp_path) == ["link.html", "real.html"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--html", "nowhere/run.html"), "--html: nowhere is not a directory"),
        (("--html", "."), "--html: '.' is a directory"),
        (("--html", "in.ndjson"), "--html needs a file of its own"),
        (("--html", "pusher.dead.ndjson"), "--html needs a file of its own"),
        (("--html", "r", "--report", "r"), "--html needs a file of its own"),
        (("--html", "ck", "--checkpoint", "ck"), "--html needs a file of its own"),
    ],
)
async def test_a_place_where_the_page_cannot_go_is_said_before_the_run(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "in.ndjson").write_bytes(ndjson([message(1)]))
    argv = ("push", "in.ndjson", "--url", "http://127.0.0.1:9", *arguments)
    result = await run(*argv, cwd=tmp_path)
    assert result.code == 2
    assert complaint in result.err
    assert files_in(tmp_path) == ["in.ndjson"]


# `pusher report`.


async def test_an_earlier_report_is_shown_in_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(readme_report().to_json())
    result = await run("report", "run.json", cwd=tmp_path)
    assert result.code == 0
    assert result.out.startswith(b"delivered: 4,059 of 4,059 messages delivered")
    piped = await run("report", "-", cwd=tmp_path, stdin=readme_report().to_json())
    assert piped.out == result.out


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "run.json: No such file"),
        (b"", "is not the report of a run"),
        (b"{}", "missing required field `outcome`"),
        (b"[1]", "is not the report of a run"),
        (b'{"outcome": 7}', "is not the report of a run"),
    ],
)
async def test_what_is_no_report_is_a_clear_error(
    content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    result = await run("report", "run.json", "--html", "run.html", cwd=tmp_path)
    assert result.code == 2
    assert complaint in result.err
    assert not (tmp_path / "run.html").exists()


def test_the_json_of_a_report_is_the_report_and_its_columns_are_lines() -> None:
    report = readme_report()
    text = report.to_json()
    assert Report.from_json(text) == report
    assert report.series is not None
    columns = [line for line in text.decode().splitlines() if line.startswith('    "')]
    assert sum('": [' in line and "]" in line for line in columns) >= 11


# In a browser.


@needs_chromium
async def test_the_page_opens_without_a_complaint_and_tells_names_to_those_who_cannot_see(
    nasty: Path,
) -> None:
    async with opened(nasty) as sheet:
        page = sheet.page
        assert await page.title() == "pusher: rejected, 279 of 283 messages"
        assert await page.locator("main img, main script, main b, main i").count() == 0
        assert await page.get_by_role("cell", name=STORES["markup"]).count() == 1
        assert await page.locator("html").get_attribute("lang") == "en"
        captions = await page.locator("table caption").all_inner_texts()
        assert len(captions) == await page.locator("table").count() >= 5
        assert all(captions)
        drawings = page.locator("svg")
        assert await drawings.count() >= 5
        assert await drawings.count() == await page.locator("svg[role=img][aria-label]").count()
        assert await page.locator("h1").count() == 1
        assert await page.locator("th:not([scope])").count() == 0


@needs_chromium
async def test_lanes_are_sorted_by_mouse_and_by_keyboard(nasty: Path) -> None:
    async with opened(nasty) as sheet:
        page = sheet.page
        counts = page.locator("table[data-sortable] tbody td:nth-child(3)")
        order = [int(text) for text in await counts.all_inner_texts()]
        assert order == sorted(order, reverse=True)
        await page.get_by_role("button", name="Delivered").click()
        head = page.get_by_role("columnheader", name="Delivered")
        assert await head.get_attribute("aria-sort") == "descending"
        await page.keyboard.press("Enter")  # It has the focus.
        assert await head.get_attribute("aria-sort") == "ascending"
        order = [int(text) for text in await counts.all_inner_texts()]
        assert order == sorted(order)
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Space")
        stores = page.locator("table[data-sortable] tbody td:nth-child(1)")
        assert await stores.first.inner_text() == STORES["quotes"]
        assert await head.get_attribute("aria-sort") is None
        assert await page.get_by_role("status").inner_text() == "Sorted by Store, ascending."


@needs_chromium
async def test_without_scripts_everything_is_there_but_the_sorting(nasty: Path) -> None:
    async with opened(nasty, scripts=False) as sheet:
        page = sheet.page
        assert await page.locator("svg").count() >= 5
        assert await page.locator("table[data-sortable] tbody tr").count() == len(STORES)
        assert await page.get_by_role("button").count() == 0
        await page.get_by_text("With 95 % confidence at most").wait_for()


CONTRAST = """
() => {
  const channel = (one) => {
    one /= 255;
    return one <= .03928 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4;
  };
  const parsed = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const color = parsed(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].filter((one) => one.nodeType === 3 && one.data.trim());
    if (!text.length || ["SCRIPT", "TITLE"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const color = node.tagName === "text" ? style.fill : style.color;
    const [a, b] = [luminance(parsed(color)), luminance(behind(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, node.outerHTML.slice(0, 80)];
  }
  return worst;
}
"""


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_enough_by_day_and_night(nasty: Path, scheme: Scheme) -> None:
    async with opened(nasty, scheme=scheme) as sheet:
        ratio, where = await sheet.page.evaluate(CONTRAST)
        assert ratio >= 4.5, where
        paper = await sheet.page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(re.findall(r"\d+", paper)[0])
        assert red < 60 if scheme == "dark" else red > 200


@needs_chromium
async def test_nothing_is_wider_than_a_phone(nasty: Path) -> None:
    async with opened(nasty) as sheet:
        page = sheet.page
        for width in (768, 375, 320):
            await page.set_viewport_size({"width": width, "height": 700})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
        # What cannot be narrower is scrolled by itself, by the keyboard too.
        region = page.get_by_role("region", name="Table")
        await region.focus()
        assert (
            await page.locator("svg text").first.evaluate("e => e.getBoundingClientRect().height")
            > 9
        )


@needs_chromium
async def test_on_paper_the_whole_table_is_there_in_black_and_white(nasty: Path) -> None:
    async with opened(nasty, scheme="dark") as sheet:
        page = sheet.page
        assert (await page.pdf(format="A4")).startswith(b"%PDF")
        await page.emulate_media(media="print", color_scheme="light")
        region = page.get_by_role("region", name="Table")
        assert await region.evaluate("e => e.scrollHeight <= e.clientHeight + 1")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
