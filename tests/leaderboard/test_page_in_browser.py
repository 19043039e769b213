"""The page in a real browser: usable, and safe whatever a record says."""

from __future__ import annotations

import csv
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from page_kit import (
    EVIL,
    PAPER,
    data_of,
    large_site,
)
from synthetic_records import record, store, sweep

from circuitbench.plugins.tiers import planting
from circuitbench_leaderboard import render
from circuitbench_leaderboard.details import FOLDER
from circuitbench_leaderboard.truth_free.page import render_report


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
    details_asked_for(browser)
    assert browser.execute_script("return window.evil") is None


def wait(until: Callable[[], Any]) -> Any:
    """What ``until`` gives, as soon as that is something."""
    deadline = time.monotonic() + 20
    while not (found := until()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def shown_rows(page: Any, table: str) -> Any:
    """The visible rows of a table, by the text of the headings, once all of them are made."""
    wait(lambda: not page.find_elements("css selector", "table[aria-busy=true]"))
    return page.execute_script(
        """
        const table = document.getElementById(arguments[0]);
        const heads = [...table.tHead.rows[0].cells].map((cell) => cell.innerText.trim());
        return [...table.tBodies[0].rows].map((row) => ({
          ...Object.fromEntries([...row.cells].map((cell, i) => [heads[i], cell.innerText.trim()])),
          Method: row.dataset.label,
        }));
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


def press(page: Any, selector: str) -> None:
    """Click on what has come into view."""
    found = find(page, selector)
    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found
    )
    found.click()


def test_the_first_view_is_the_overall_ranking(page: Any) -> None:
    shown = shown_rows(page, "standings")
    # Tracks are ranked apart: rl-ppo was trained.
    assert [row["Method"] for row in shown] == ["acdc", "random", "head-ablation", "rl-ppo"]
    assert [row["#"] for row in shown] == ["1", "2", "–", "1"]
    assert find(page, "#shown").text == "4 rows shown"
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert page.execute_script(overflow) <= 0


def test_sorting(page: Any) -> None:
    head = find(page, "#standings th[data-metric=queries]")
    for direction in ("ascending", "descending"):
        press(page, "#standings th[data-metric=queries] button")
        assert head.get_attribute("aria-sort") == direction
        *complete, last = (row["Queries"] for row in shown_rows(page, "standings"))
        assert last == "–"
        numbers = [int(value.replace(",", "")) for value in complete]
        assert numbers == sorted(numbers, reverse=direction == "descending")
    assert len(page.find_elements("css selector", "#standings [aria-sort]")) == 1


def test_filtering(page: Any) -> None:
    choose(page, "by-task", "=ioi")
    assert {row["Task"] for row in shown_rows(page, "standings")} == {"ioi"}
    assert {row["Task"] for row in shown_rows(page, "run-table")} == {"ioi"}
    choose(page, "by-family", "=ppo")
    assert [row["Method"] for row in shown_rows(page, "standings")] == ["rl-ppo"]
    find(page, "#filters button[type=reset]").click()
    choose(page, "by-task", "")
    assert len(shown_rows(page, "standings")) == 7
    find(page, "#by-text").send_keys("random induct")
    (row,) = shown_rows(page, "standings")
    assert (row["Method"], row["Task"]) == ("random", "induction")
    find(page, "#by-text").send_keys(" nothing")
    assert "loosen the filters" in find(page, "#shown").text


def test_another_metric_ranks_anew(page: Any, site: Any) -> None:
    choose(page, "by-metric", "mcc")
    shown = shown_rows(page, "standings")
    values = [float(row["MCC"].split()[0].rstrip("★≈?")) for row in shown[:2]]
    assert values == sorted(values, reverse=True)
    assert [row["#"] for row in shown] == ["1", "2", "–", "1"]


def test_runs_of_a_method_leave_out_those_of_its_namesakes(page: Any, tmp_path: Path) -> None:
    records = sweep(("rl-ppo", "rl-ppo-plan"), seeds=range(2))
    page.get(f"file://{render(store(records, tmp_path / 'results'), 'html', tmp_path)}")
    shown_rows(page, "standings")
    for row, n in (
        ("#standings tr[data-scope=overall][data-label=rl-ppo]", 4),
        ("#tables tr[data-task=''][data-label=rl-ppo]", 4),
        ("#tables tr[data-task=ioi][data-label=rl-ppo]", 2),
    ):
        button = find(page, f"{row} .runs-of")
        page.execute_script("arguments[0].click()", button)
        shown = shown_rows(page, "run-table")
        assert [run["Method"] for run in shown] == ["rl-ppo"] * n
    find(page, "#by-text").send_keys(" ")
    assert {run["Method"] for run in shown_rows(page, "run-table")} == {"rl-ppo", "rl-ppo-plan"}


def open_run(page: Any, run_id: str) -> str:
    """Click on a run's button, and what the page then says of it."""
    shown_rows(page, "run-table")
    press(page, f'tr[data-run="{run_id}"] button')
    return body(page)


def body(page: Any) -> str:
    """The text of the open run, once it is there."""
    wait(lambda: find(page, "#run-body").get_attribute("aria-busy") == "false")
    return str(find(page, "#run-body").text)


def details_asked_for(page: Any) -> list[str]:
    """The details files that were loaded since this was last asked."""
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in sent
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert {url.partition(":")[0] for url in urls} <= {"file", "data", "blob"}
    return [Path(url).name for url in urls if f"/{FOLDER}/" in url]


def test_details_are_loaded_when_a_run_is_opened_and_only_once(page: Any, site: Any) -> None:
    shown_rows(page, "run-table")
    assert details_asked_for(page) == []
    first, second = (r for r in site[1] if (r.method, r.task) == ("rl-ppo", "ioi"))
    assert first.command in open_run(page, first.run_id)
    (file,) = details_asked_for(page)
    assert file.startswith("rl-ppo-")
    find(page, "#close").click()
    assert second.command in open_run(page, second.run_id)
    assert details_asked_for(page) == []


def test_a_run_shows_its_heads_curve_cost_and_command(page: Any, site: Any) -> None:
    wanted = next(r for r in site[1] if (r.method, r.task, r.seed) == ("rl-ppo", "ioi", 1))
    body = open_run(page, wanted.run_id)
    assert find(page, "#run-title").text == "rl-ppo on ioi / planted, seed 1"
    assert len(page.find_elements("css selector", "#run .cell")) == 6 * 8
    titles = page.execute_script(
        "return [...document.querySelectorAll('#run svg title')].map((t) => t.textContent)"
    )
    head = next(title for title in titles if title.startswith("head 4.7:"))
    assert "name_mover" in head
    assert find(page, "#run .step").get_attribute("d").startswith("M")
    assert wanted.command in body
    assert "4,000" in body
    assert page.execute_script("return location.hash") == f"#run={wanted.run_id}"


def test_a_hostile_record_is_shown_as_text(page: Any, site: Any) -> None:
    body = open_run(page, site[1][0].run_id)
    assert EVIL in body
    hardware = page.execute_script(
        """
        const table = [...document.querySelectorAll("#run details")].find(
          (details) => details.querySelector("summary").textContent === "Hardware");
        return [...table.querySelectorAll("tbody tr")].map((row) => row.cells[0].textContent);
        """
    )
    assert {EVIL, "__proto__", "quotes"} == set(hardware)


def test_paper_and_family_of_a_method(page: Any, site: Any) -> None:
    link = find(page, "#standings tr[data-label=acdc] a")
    assert link.get_attribute("href") == PAPER["link"]
    assert link.get_attribute("rel") == "noopener noreferrer"
    choose(page, "by-family", "=Mask search")
    assert {row["Method"] for row in shown_rows(page, "run-table")} == {"acdc"}
    said = open_run(page, next(r.run_id for r in site[1] if r.method == "acdc"))
    assert "ACDC over heads" in said
    assert PAPER["paper"] in said


def test_the_keyboard_is_enough(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    shown_rows(page, "run-table")
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


def test_failed_runs_say_why_as_text(page: Any, site: Any) -> None:
    failed = next(r for r in site[1] if r.status == "failed")
    open_run(page, failed.run_id)
    assert EVIL in find(page, "#run .reason").text


def test_a_link_to_a_run_opens_it(page: Any, site: Any) -> None:
    page.get("about:blank")
    page.get(f"file://{site[0]}#run={site[1][3].run_id}")
    assert find(page, "#run-title").text.startswith(site[1][3].method)
    assert site[1][3].command in body(page)


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


def copy_of(site: Any, folder: Path) -> Path:
    """The site in another folder, to be damaged."""
    shutil.copytree(site[0].parent, folder)
    return folder / "index.html"


def damage(how: str, files: list[Path]) -> None:
    for path in files:
        if how == "missing":
            path.unlink()
        elif how == "truncated":
            path.write_text(path.read_text()[:200])
        elif how == "of another page":
            path.write_text(path.read_text().replace(path.name, "acdc-0123456789abcdef.js"))


@pytest.mark.parametrize("how", ["missing", "truncated", "of another page"])
def test_details_that_cannot_be_read_give_one_line(
    browser: Any, site: Any, tmp_path: Path, how: str
) -> None:
    shell = copy_of(site, tmp_path / "site")
    damage(how, list((shell.parent / FOLDER).iterdir()))
    browser.get(f"file://{shell}")
    said = open_run(browser, site[1][2].run_id)
    file = next(name for name, _ in data_of(shell.read_text())["details"] if "acdc" in name)
    assert f"the file {FOLDER}/{file} is missing, blocked or damaged" in said
    assert "AP" in said  # what the shell knows
    find(browser, "#next").click()
    assert "missing, blocked or damaged" in body(browser)
    browser.get_log("browser")


def test_without_its_list_of_runs_a_page_shows_the_ranking_and_says_what_is_missing(
    browser: Any, site: Any, tmp_path: Path
) -> None:
    shell = copy_of(site, tmp_path / "site")
    damage("missing", list((shell.parent / "cards").glob("runs-*")))
    browser.get(f"file://{shell}")
    assert shown_rows(browser, "run-table") == []
    assert shown_rows(browser, "standings")
    name, _ = data_of(shell.read_text())["rest"]
    for place in ("#runs-shown", "#more"):
        assert f"the file cards/{name} is missing, blocked or damaged" in find(browser, place).text
    browser.get_log("browser")


def test_details_that_come_back_are_shown(browser: Any, site: Any, tmp_path: Path) -> None:
    shell = copy_of(site, tmp_path / "site")
    (shell.parent / FOLDER).rename(tmp_path / "elsewhere")
    browser.get(f"file://{shell}")
    assert "missing" in open_run(browser, site[1][2].run_id)
    find(browser, "#close").click()
    (tmp_path / "elsewhere").rename(shell.parent / FOLDER)
    assert site[1][2].command in open_run(browser, site[1][2].run_id)
    browser.get_log("browser")


@pytest.fixture
def server(site: Any, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The site from a server: its address and folder."""
    shell = copy_of(site, tmp_path / "site")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *ignored: Any) -> None:
            """Say nothing."""

    handler = partial(Quiet, directory=str(shell.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/index.html", shell.parent
        running.shutdown()
        thread.join()


def test_from_a_server_edited_details_do_not_run(browser: Any, site: Any, server: Any) -> None:
    address, folder = server
    for path in (folder / FOLDER).glob("acdc-*"):
        path.write_text("window.evil = 1;" + path.read_text())
    browser.get(address)
    good, edited = (next(r for r in site[1] if r.method == name) for name in ("random", "acdc"))
    assert good.command in open_run(browser, good.run_id)
    find(browser, "#close").click()
    assert "missing, blocked or damaged" in open_run(browser, edited.run_id)
    assert browser.execute_script("return window.evil") is None
    browser.get_log("browser")


@pytest.mark.parametrize(
    "markup",
    [
        "<script>window.evil = 1</script>",
        "<script src='evil.js'></script>",
        "<img src=x onerror='window.evil = 1'>",
        "<svg onload='window.evil = 1'></svg>",
        "<iframe srcdoc='<script>parent.evil = 1</script>'></iframe>",
    ],
)
@pytest.mark.parametrize("guarded", [True, False])
def test_no_markup_runs_even_if_it_got_into_the_page(
    browser: Any, site: Any, markup: str, tmp_path: Path, guarded: bool
) -> None:
    shell = copy_of(site, tmp_path / "site")
    (shell.parent / "evil.js").write_text("window.evil = 1;")
    text = shell.read_text().replace("<main>", f"<main>{markup}")
    if not guarded:  # the attack would work
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    shell.write_text(text)
    browser.get(f"file://{shell}")
    shown_rows(browser, "standings")
    time.sleep(0.1)
    ran = "return window.evil === undefined ? null : window.evil"
    assert browser.execute_script(ran) == (None if guarded else 1)
    browser.get_log("browser")


@pytest.mark.parametrize(
    "attempt",
    [
        "document.body.innerHTML = '<img src=x onerror=window.evil=1>'",
        "eval('window.evil = 1')",
        "Object.assign(document.head.appendChild(document.createElement('script')), "
        "{text: 'window.evil = 1'})",
        "Object.assign(document.head.appendChild(document.createElement('script')), "
        "{src: 'evil.js'})",
        "document.body.setAttribute('onclick', 'window.evil = 1')",
    ],
)
def test_no_text_becomes_code(browser: Any, site: Any, attempt: str, tmp_path: Path) -> None:
    shell = copy_of(site, tmp_path / "site")
    (shell.parent / "evil.js").write_text("window.evil = 1;")
    browser.get(f"file://{shell}")
    # In the page's own world, as its script would do it.
    browser.execute_script(
        "document.body.addEventListener('click', () => 0);"
        f"setTimeout(() => {{ {attempt}; }}); document.body.click();"
    )
    time.sleep(0.2)
    browser.execute_script("document.body.click()")
    assert browser.execute_script("return window.evil") is None
    browser.get_log("browser")


def test_a_single_file_opens_alone(browser: Any, site: Any, tmp_path: Path) -> None:
    path = tmp_path / "alone.html"
    path.write_text(render(site[0].parents[1] / "results", "html"))
    browser.get(f"file://{path}")
    assert site[1][2].command in open_run(browser, site[1][2].run_id)
    assert browser.get_log("browser") == []


def test_figures_load_when_they_come_into_view(page: Any) -> None:
    names = page.execute_script(
        "return [...document.querySelectorAll('#figures img')].map((i) => [i.loading, i.alt])"
    )
    assert names
    assert all(loading == "lazy" and alt for loading, alt in names)
    image = find(page, "#figures img")
    page.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", image)
    wait(lambda: page.execute_script("return arguments[0].naturalWidth > 0", image))


def test_all_rows_are_there_on_paper(browser: Any, large: Any, tmp_path: Path) -> None:
    browser.get(f"file://{large_site(large, tmp_path)}")
    wait(lambda: browser.find_elements("css selector", "#run-table tbody tr"))
    count = "dispatchEvent(new Event('beforeprint')); return document.querySelectorAll('%s').length"
    assert browser.execute_script(count % "#run-table tbody tr") == len(large)
    assert browser.execute_script(count % "details:not([open])") == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")


def test_a_large_page_shows_its_ranking_and_every_run(
    browser: Any, large: Any, tmp_path: Path
) -> None:  # how soon is measured by benchmarks/page.py
    browser.get(f"file://{large_site(large, tmp_path)}")
    assert len(browser.find_elements("css selector", "#standings tbody tr")) == 23
    assert len(shown_rows(browser, "run-table")) == len(large)


@pytest.mark.parametrize("by", ["queries", "cmd_zero"])
def test_where_lower_is_better_the_lowest_comes_first(
    browser: Any, tmp_path: Path, by: str
) -> None:
    # A method's queries grow with its name; so shall its CMD.
    measured = {
        m: {"mib": {"zero": {"cpr": 1.0, "cmd": len(m) / 20}}}
        for m in ("acdc", "cma-es", "random-3")
    }
    records = [
        record(m, task, seed, measurements=measured[m])
        for m in measured
        for task in ("ioi", "induction")
        for seed in range(2)
    ]
    path = render(store(records, tmp_path / "results"), "html", tmp_path, by=by)
    browser.get(f"file://{path}")
    shown = shown_rows(browser, "standings")
    assert [row["#"] for row in shown] == ["1", "2", "3"]
    assert [row["Method"] for row in shown] == ["acdc", "cma-es", "random-3"]
    head = find(browser, f"#standings th[data-metric={by}]")
    assert head.get_attribute("aria-sort") == "ascending"
    press(browser, f"#standings th[data-metric={by}] button")
    assert head.get_attribute("aria-sort") == "descending"
    assert shown_rows(browser, "standings")[0]["Method"] == "random-3"
    choose(browser, "by-metric", "f1")
    head = find(browser, "#standings th[data-metric=f1]")
    assert head.get_attribute("aria-sort") == "descending"
    assert browser.get_log("browser") == []


@pytest.fixture
def screen(browser: Any) -> Iterator[Callable[[int], None]]:
    """Gives the browser's window another width."""

    def width(pixels: int) -> None:
        size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    yield width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [400, 1400])
def test_the_first_screen_tells_the_story(page: Any, screen: Any, width: int) -> None:
    screen(width)
    said = find(page, "#sentence").text
    assert said.startswith(
        "On 2 embedded tasks whose circuits are known, ACDC over heads does best "
    )
    assert [b.text for b in page.find_elements("css selector", "#tiers button")] == ["embedded"]
    names = [b.text for b in page.find_elements("css selector", "#heat tbody button")]
    # The methods by track, then by place; what lacks a run is last.
    assert names == ["ACDC over heads", "random", "head-ablation", "rl-ppo"]
    assert len(page.find_elements("css selector", "#heat [data-cell]")) == 6
    # Asked in one breath: the plot is drawn again when the window has another width.
    points = "return [...document.querySelectorAll('#frontier [role=button]')].map(p => p.dataset)"
    assert {p["method"] for p in page.execute_script(points)} == {"acdc", "random", "rl-ppo"}
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert page.execute_script(overflow) <= 0
    seen = ("#sentence", "#tiers", "#heat", *(["#frontier svg"] if width == 1400 else []))
    top = "return document.querySelector(arguments[0]).getBoundingClientRect().y + scrollY"
    for place in seen:
        assert page.execute_script(top, place) < 900


def test_each_track_has_its_own_line_of_quality_against_cost(page: Any) -> None:
    note = find(page, "#frontier-note").text
    assert "trained on the model it is scored on: rl-ppo" in note
    assert len(page.find_elements("css selector", "#frontier path.step")) == 2


def test_costs_on_the_first_screen_include_training(page: Any) -> None:
    point = find(page, "#frontier [data-method=rl-ppo]")
    assert point.get_attribute("aria-label").endswith("training included 4,108")
    page.execute_script("arguments[0].dispatchEvent(new Event('pointerenter'))", point)
    assert "rl-ppo" in find(page, "#frontier .tip").text


def test_a_point_opens_the_card_of_its_method(page: Any) -> None:
    find(page, "#frontier [data-method=acdc]").click()
    said = find(page, "#card").text
    for words in (
        "ACDC over heads (acdc)",
        PAPER["paper"],
        "scores heads",
        "rounds",
        "misses most",
    ):
        assert words in said
    assert page.execute_script("return location.hash") == "#method=acdc"
    find(page, "#card-body button[data-task]").click()
    wait(lambda: "The circuit" in find(page, "#card").text)
    assert "name_mover (2 heads, 1 needed)" in find(page, "#card").text
    assert len(page.find_elements("css selector", "#card .true")) == 6
    find(page, "#card-body button[data-model]").click()
    wait(lambda: "6 layers of 8 heads" in find(page, "#card").text)
    find(page, "#card-close").click()
    assert page.execute_script("return location.hash") == ""


@pytest.mark.parametrize(
    ("link", "title"), [("method=rl-ppo", "rl-ppo"), ("task=ioi/planted", "ioi")]
)
def test_cards_have_addresses(page: Any, site: Any, link: str, title: str) -> None:
    page.get("about:blank")
    page.get(f"file://{site[0]}#{link}")
    assert find(page, "#card-title").text == title


def test_arrows_move_in_the_heat_map(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def where() -> str:
        return str(page.switch_to.active_element.text)

    page.execute_script("document.querySelector('#heat [tabindex=\"0\"]').focus()")
    assert where() == "induction"
    for key, there in (
        (Keys.ARROW_RIGHT, "ioi"),
        (Keys.ARROW_LEFT, "induction"),
        (Keys.ARROW_DOWN, None),
        (Keys.ARROW_LEFT, "ACDC over heads"),
        (Keys.ARROW_DOWN, "random"),
    ):
        page.switch_to.active_element.send_keys(key)
        assert there is None or where() == there
    assert len(page.find_elements("css selector", "#heat [tabindex='0']")) == 1
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    shown = shown_rows(page, "run-table")
    assert {(run["Method"], run["Task"]) for run in shown} == {("random", "induction")}


def test_any_metric_against_any_other(page: Any) -> None:
    page.execute_script("document.getElementById('explore').scrollIntoView({behavior: 'instant'})")
    wait(lambda: page.find_elements("css selector", "#scatter [role=button]"))
    keys = page.execute_script(
        "return [...document.querySelectorAll('#across option')].map((o) => o.dataset.key)"
    )
    assert {"average_precision", "auroc", "queries", "seconds"} <= set(keys)
    choose(page, "across", str(keys.index("seconds")))
    choose(page, "up", str(keys.index("auroc")))
    assert find(page, "#scatter svg").get_attribute("aria-label").startswith("AUROC against Time")
    assert "3 methods that have both on all of 2 tasks" in find(page, "#explore-note").text
    choose(page, "explored", "1")
    assert "on all of 1 task;" in find(page, "#explore-note").text


def test_downloads(browser: Any, site: Any, tmp_path: Path) -> None:
    allow = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", allow)
    browser.get(f"file://{site[0]}")

    def file(place: str, kind: str, name: str) -> bytes:
        press(browser, f"{place} [data-file={kind}]")
        wait((tmp_path / name).exists)
        return wait((tmp_path / name).read_bytes)  # type: ignore[no-any-return]

    (first, *_) = csv.DictReader(
        file("#board-files", "CSV", "circuitbench-leaderboard.csv").decode().splitlines()
    )
    assert (first["method"], first["place"], first["family"]) == ("acdc", "1", "Mask search")
    assert 0 < float(first["average_precision"]) < 1
    content = json.loads(file("#run-files", "JSON", "circuitbench-runs.json"))
    assert {row["run"] for row in content["rows"]} == {r.run_id for r in site[1]}
    cited = file("#board-files", "BibTeX", "circuitbench.bib").decode()
    assert "@misc{author2020," in cited
    assert "Author and others" in cited
    drawn = file("[data-picture=heat]", "SVG", "methods-by-tasks.svg").decode()
    assert "ACDC over heads" in drawn
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert file("[data-picture=frontier]", "PNG", "quality-by-cost.png").startswith(b"\x89PNG")
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_rows_of_another_commit_are_marked_and_have_no_place(browser: Any, tmp_path: Path) -> None:
    others = {"circuitbench": "0.1.0", "torch": "2.13.0", "commit": "f" * 40}
    records = sweep(("acdc", "random"), seeds=range(2))
    records += [r.replace(versions=others) for r in sweep(("rl-ppo",), seeds=range(2))]
    browser.get(f"file://{render(store(records, tmp_path / 'results'), 'html', tmp_path)}")
    shown = shown_rows(browser, "standings")
    assert [(row["Method"], row["#"]) for row in shown] == [
        ("acdc", "1"),
        ("random", "2"),
        ("rl-ppo", "–"),
    ]
    assert "other version" in find(browser, "#standings [data-label=rl-ppo]").text
    assert not browser.find_elements("css selector", "#heat [data-label=rl-ppo]")
    press(browser, "#standings [data-label=rl-ppo] .name")
    assert "not ranked with it" in find(browser, "#card").text
    assert browser.get_log("browser") == []


def test_tiers_have_means_of_their_own_and_a_best_method_each(browser: Any, tmp_path: Path) -> None:
    skills = {"easy": {"acdc": 3.0, "random": -3.0}, "hard": {"acdc": -3.0, "random": 3.0}}
    records = [
        record(
            method,
            task,
            seed,
            model=f"planted-{tier}@{planting(tier, seed)}",
            skill=skill,
        )
        for tier, of in skills.items()
        for method, skill in of.items()
        for task in ("ioi", "induction")
        for seed in range(2)
    ]
    browser.get(f"file://{render(store(records, tmp_path / 'results'), 'html', tmp_path)}")
    said = find(browser, "#sentence").text
    assert "Best by tier: easy acdc (1.000), hard random (1.000)." in said
    headings = [b.text for b in browser.find_elements("css selector", "#heat thead button")]
    assert headings[:2] == ["easy", "hard"]
    assert [name.partition(" / ")[2] for name in headings[2:]] == [
        "planted-easy",
        "planted-easy",
        "planted-hard",
        "planted-hard",
    ]
    cells = browser.find_elements("css selector", "#heat [data-label=acdc] [role=gridcell]")
    easy, hard, *of_tasks = (float(cell.text) for cell in cells)
    assert easy == 1.0
    assert of_tasks[:2] == [1.0, 1.0]
    assert hard == pytest.approx(sum(of_tasks[2:]) / 2, abs=0.011)
    press(browser, "#heat [data-of-tier=hard]")
    assert find(browser, "#tiers [aria-pressed=true]").text == "hard"
    assert len(browser.find_elements("css selector", "#heat .of-tier")) == 0
    assert len(browser.find_elements("css selector", "#heat [data-label=acdc] [data-cell]")) == 2
    assert "Best by tier" not in find(browser, "#sentence").text
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_on_numbers_without_truth_fits_and_is_quiet(
    browser: Any, screen: Any, tmp_path: Path, width: int
) -> None:
    told = {"mib": {"zero": {"cmd": 0.3, "cpr": 0.6}}, "completeness": {"relative_mean": 0.1}}
    records = [
        one.replace(measurements=told) for one in sweep(tasks=("ioi", "induction"), seeds=range(2))
    ]
    written = render_report(store(records, tmp_path / "results"), "html", tmp_path / "site")
    screen(width)
    browser.get(f"file://{written}")
    assert "trust" in find(browser, ".said").text
    assert len(browser.find_elements("css selector", "table")) == 4
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert browser.execute_script(overflow) <= 0
    assert browser.execute_script("return document.images[0].complete")
    assert browser.get_log("browser") == []
