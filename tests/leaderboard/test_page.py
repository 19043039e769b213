"""The page: self-contained, safe, and usable in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import record, store, sweep

from circuitbench_leaderboard import render

EVIL = "</script><script>window.evil=1</script><img src=x onerror=window.evil=1>"


@pytest.fixture(scope="module")
def site(tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("page")
    records = sweep(("acdc", "random", "rl-ppo"), seeds=range(2))
    records[0] = records[0].replace(
        command=EVIL, truth={**records[0].truth, "source": EVIL}, hardware={EVIL: EVIL}
    )
    records += [
        record("head-ablation", "ioi", 0),
        record("head-ablation", "ioi", 1, status="failed", reason=EVIL, discovery={}),
    ]
    path = folder / "index.html"
    path.write_text(render(store(records, folder / "results"), "html"), encoding="utf-8")
    return path, records


@pytest.fixture(scope="module")
def text(site: Any) -> Any:
    return site[0].read_text(encoding="utf-8")


def test_the_page_is_self_contained(text: str) -> None:
    # Links to records are relative; XML namespaces are names, not addresses.
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert {a.split("/")[2] for a in addresses} <= {"www.w3.org"}
    assert not re.search(r"<(link|script|img|iframe)[^>]+(src|href)=[\"'](?!data:)", text)
    assert "@import" not in text


def test_only_the_pages_own_script_may_run(text: str) -> None:
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    assert [attributes.strip() for attributes, _ in scripts] == [
        'type="application/json" id="data"',
        "",
    ]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_nothing_from_a_record_is_markup(text: str) -> None:
    assert "<img" not in text
    assert text.count("window.evil") > 0
    (found,) = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(found)
    assert EVIL in {run["command"] for run in data["runs"].values()}


def test_ids_are_unique(text: str) -> None:
    found = re.findall(r'\sid="([^"]+)"', text)
    assert len(found) == len(set(found))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: Any) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1400,1000",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield running
    running.quit()


@pytest.fixture
def page(browser: Any, site: Any) -> Iterator[Any]:
    browser.get("about:blank")
    browser.get_log("performance")  # what the browser itself loaded at its start
    browser.get(f"file://{site[0]}")
    yield browser
    logs = browser.get_log("browser")
    assert [entry["message"] for entry in logs] == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {
        message["params"]["request"]["url"]
        for message in sent
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url.partition(":")[0] for url in urls} <= {"file", "data"}
    assert browser.execute_script("return window.evil") is None


def rows(page: Any, table: str) -> Any:
    """The visible rows of a table, by the text of the headings."""
    return page.execute_script(
        """
        const table = document.getElementById(arguments[0]);
        const heads = [...table.tHead.rows[0].cells].map((cell) => cell.innerText.trim());
        return [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) =>
          Object.fromEntries([...row.cells].map((cell, i) => [heads[i], cell.innerText.trim()])));
        """,
        table,
    )


def choose(page: Any, control: str, value: str) -> None:
    page.execute_script(
        """
        const select = document.getElementById(arguments[0]);
        select.value = arguments[1];
        select.dispatchEvent(new Event("change", { bubbles: true }));
        """,
        control,
        value,
    )


def find(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def test_the_first_view_is_the_overall_ranking(page: Any) -> None:
    shown = rows(page, "standings")
    assert [row["Method"] for row in shown] == ["rl-ppo", "acdc", "random", "head-ablation"]
    assert [row["#"] for row in shown] == ["1", "2", "3", "–"]
    assert find(page, "#shown").text == "4 rows shown"
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert page.execute_script(overflow) <= 0


def test_sorting(page: Any) -> None:
    head = find(page, "#standings th[data-metric=queries]")
    for direction in ("ascending", "descending"):
        head.find_element("css selector", "button").click()
        assert head.get_attribute("aria-sort") == direction
        *complete, last = (row["Queries"] for row in rows(page, "standings"))
        assert last == "–"
        numbers = [int(value) for value in complete]
        assert numbers == sorted(numbers, reverse=direction == "descending")
    assert len(page.find_elements("css selector", "#standings [aria-sort]")) == 1


def test_filtering(page: Any) -> None:
    choose(page, "by-task", "=ioi")
    assert {row["Task"] for row in rows(page, "standings")} == {"ioi"}
    assert {row["Task"] for row in rows(page, "run-table")} == {"ioi"}
    choose(page, "by-family", "=ppo")
    assert [row["Method"] for row in rows(page, "standings")] == ["rl-ppo"]
    find(page, "#filters button[type=reset]").click()
    choose(page, "by-task", "")
    assert len(rows(page, "standings")) == 7
    find(page, "#by-text").send_keys("random induct")
    (row,) = rows(page, "standings")
    assert (row["Method"], row["Task"]) == ("random", "induction")
    find(page, "#by-text").send_keys(" nothing")
    assert "loosen the filters" in find(page, "#shown").text


def test_another_metric_ranks_anew(page: Any, site: Any) -> None:
    choose(page, "by-metric", "mcc")
    shown = rows(page, "standings")
    values = [float(row["MCC"].split()[0].rstrip("★≈?")) for row in shown[:-1]]
    assert values == sorted(values, reverse=True)
    assert [row["#"] for row in shown] == ["1", "2", "3", "–"]


def test_runs_of_a_method_leave_out_those_of_its_namesakes(page: Any, tmp_path: Path) -> None:
    records = sweep(("rl-ppo", "rl-ppo-plan"), seeds=range(2))
    path = tmp_path / "index.html"
    path.write_text(render(store(records, tmp_path / "results"), "html"), encoding="utf-8")
    page.get(f"file://{path}")
    for row, n in (
        ("#standings tr[data-scope=overall][data-label=rl-ppo]", 4),
        ("#tables tr[data-task=''][data-label=rl-ppo]", 4),
        ("#tables tr[data-task=ioi][data-label=rl-ppo]", 2),
    ):
        button = find(page, f"{row} .runs-of")
        page.execute_script("arguments[0].click()", button)
        shown = rows(page, "run-table")
        assert [run["Method"] for run in shown] == ["rl-ppo"] * n
    find(page, "#by-text").send_keys(" ")
    assert {run["Method"] for run in rows(page, "run-table")} == {"rl-ppo", "rl-ppo-plan"}


def test_a_run_shows_its_heads_curve_cost_and_command(page: Any, site: Any) -> None:
    wanted = next(r for r in site[1] if (r.method, r.task, r.seed) == ("rl-ppo", "ioi", 1))
    button = find(page, f'tr[data-run="{wanted.run_id}"] button')
    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button
    )
    button.click()
    assert find(page, "#run-title").text == "rl-ppo on ioi / planted, seed 1"
    assert len(page.find_elements("css selector", "#run .cell")) == 6 * 8
    titles = page.execute_script(
        "return [...document.querySelectorAll('#run svg title')].map((t) => t.textContent)"
    )
    head = next(title for title in titles if title.startswith("head 4.7:"))
    assert "name_mover" in head
    assert find(page, "#run .step").get_attribute("d").startswith("M")
    body = find(page, "#run-body").text
    assert wanted.command in body
    assert "4,000" in body
    assert page.execute_script("return location.hash") == f"#run={wanted.run_id}"


def test_the_keyboard_is_enough(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    opener = find(page, "#run-table .open")
    page.execute_script("arguments[0].focus()", opener)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    first = find(page, "#run-title").text
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert find(page, "#run-title").text != first
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert find(page, "#run-title").text == first
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not page.execute_script("return document.getElementById('run').open")
    assert page.switch_to.active_element == opener


def test_failed_runs_say_why_as_text(page: Any) -> None:
    choose(page, "by-family", "=ablation")
    page.execute_script(
        "document.querySelector('.failed').closest('tr').querySelector('button').click()"
    )
    assert EVIL in find(page, "#run .reason").text


def test_a_link_to_a_run_opens_it(page: Any, site: Any) -> None:
    page.get("about:blank")
    page.get(f"file://{site[0]}#run={site[1][3].run_id}")
    assert find(page, "#run-title").text.startswith(site[1][3].method)


def test_light_and_dark(page: Any) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(colour)
    find(page, "#theme").click()
    assert page.execute_script(colour) != before
    find(page, "#theme").click()
    assert page.execute_script(colour) == before


def test_controls_have_names(page: Any) -> None:
    unnamed = page.execute_script(
        """
        return [...document.querySelectorAll("button, select, input, svg[role=img], [role=region]")]
          .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label")
            || e.getAttribute("aria-labelledby") || e.closest("label")))
          .map((e) => e.outerHTML.slice(0, 100));
        """
    )
    assert unnamed == []
    headings = page.execute_script(
        "return [...document.querySelectorAll('main h1, main h2, main h3')].map((h) => h.tagName)"
    )
    assert headings[0] == "H2"
