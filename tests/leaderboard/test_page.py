"""The files of the page: a small shell, details on demand, nothing from a record as code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from page_kit import (
    EVIL,
    LIMIT,
    PAPER,
    QUOTES,
    content_of,
    data_of,
    files_of,
    large_site,
    runs_of,
)
from synthetic_records import record, rows, store

from circuitbench.evaluation.metrics import metric
from circuitbench_leaderboard import page as pages_module
from circuitbench_leaderboard import render
from circuitbench_leaderboard.board import board
from circuitbench_leaderboard.details import FOLDER, MOST, Chunk, chunks, safe_json
from circuitbench_leaderboard.tables import tables


def test_the_page_refers_to_its_own_files_alone(site: Any, text: str) -> None:
    # XML namespaces are names, not addresses; papers are links to follow.
    addresses = set(re.findall(r"https?://[^\s\"'<>)\\\]]+", text))
    assert {a.split("/")[2] for a in addresses} <= {"www.w3.org", "example.org"}
    used = re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]+)\"", text)
    assert "tables.html" in used
    assert "figures/quality-by-queries.svg" in used
    for name in used:
        assert (site[0].parent / name).is_file()
    assert "@import" not in text


def test_only_own_scripts_may_run_and_only_through_the_shell(text: str) -> None:
    found = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    data = 'type="application/json" id="data"'
    assert [attributes.strip() for attributes, _ in found] == [data, ""]
    digest = base64.b64encode(hashlib.sha256(found[1][1].encode()).digest()).decode()
    first, second = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert f"script-src 'sha256-{digest}' 'self';" in first
    assert "default-src 'none'" in first
    assert f"script-src 'sha256-{digest}' 'strict-dynamic';" in second
    assert "require-trusted-types-for 'script'" in second


def test_nothing_from_a_record_is_markup_or_code(site: Any, text: str, scripts: Any) -> None:
    plain = (site[0].parent / "tables.html").read_text()
    for written in (text, plain, *scripts.values()):
        assert "<img src=x" not in written
        assert "<script>window" not in written
    found = {id: run for script in scripts.values() for id, run in runs_of(script).items()}
    assert len(found) == len(site[1])
    hostile = found[site[1][0].run_id]
    assert hostile["command"] == EVIL
    assert hostile["hardware"] == {EVIL: EVIL, "__proto__": QUOTES, "quotes": QUOTES}


@pytest.mark.parametrize("hostile", [EVIL, QUOTES, "\\", "'", "\ud800", "]]>", "\\u0027"])
def test_any_text_survives_a_details_file(hostile: str) -> None:
    (entry,) = board(rows([record()])).entries
    script = Chunk(entry, (), safe_json([hostile])).script
    assert content_of(script) == [hostile]
    assert script.isascii()


def test_a_shell_lists_its_details_with_their_hashes(text: str, scripts: Any) -> None:
    listed = dict(data_of(text)["details"])
    assert listed.keys() == scripts.keys()
    for name, script in scripts.items():
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert listed[name] == f"sha256-{digest}"


def test_the_same_records_give_the_same_bytes(site: Any, tmp_path: Path) -> None:
    store(reversed(site[1]), tmp_path / "results")
    render(tmp_path / "results", "html", tmp_path / "site")
    first, second = (files_of(folder) for folder in (site[0].parent, tmp_path / "site"))
    assert first == second


def test_details_of_an_earlier_page_are_removed(tmp_path: Path) -> None:
    results = store([record("acdc")], tmp_path / "results")
    render(results, "html", tmp_path)
    (old,) = (tmp_path / FOLDER).iterdir()
    (tmp_path / FOLDER / "mine.js").touch()
    store([record("acdc", seed=1)], results)
    render(results, "html", tmp_path)
    left = {path.name for path in (tmp_path / FOLDER).iterdir()}
    assert len(left) == 2
    assert "mine.js" in left
    assert old.name not in left


def test_a_page_that_is_printed_holds_everything(site: Any) -> None:
    text = render(site[0].parents[1] / "results", "html")
    assert not re.search(r"<(link|script|img|iframe)[^>]+(src|href)=[\"'](?!data:)", text)
    inside = re.findall(r'data-details="([^"]+)">(.*?)</script>', text)
    data = data_of(text)
    files = [*data["details"], data["cards"], data["rest"]]
    assert [name for name, _ in inside] == [name for name, _ in files]
    for listed in (inside[:-2], inside[-1:]):  # details, then the list of all
        assert sum(len(json.loads(content)["runs"]) for _, content in listed) == len(site[1])
    assert "<h3>Per task</h3>" in text


def test_every_number_stands_in_the_plain_tables(site: Any) -> None:
    plain = (site[0].parent / "tables.html").read_text()
    assert "<script" not in plain
    for one in site[1]:
        assert one.run_id in plain
    shown = board(rows(site[1]), by=metric("average_precision"))
    for table in tables(shown):
        assert f"<h3>{table.title}</h3>" in plain


def test_the_shell_stays_small(large: Any, tmp_path: Path) -> None:
    shell = large_site(large, tmp_path)
    assert len(large) == 1725
    assert shell.stat().st_size < LIMIT
    assert len(list((tmp_path / FOLDER).iterdir())) == 23
    assert all(path.stat().st_size < LIMIT for path in tmp_path.rglob("*") if path.is_file())


def test_a_details_file_holds_a_limited_number_of_runs() -> None:
    made = rows([record("acdc", seed=seed) for seed in range(MOST + 1)])
    found = list(chunks(board(made), Path()))
    assert [len(chunk.run_ids) for chunk in found] == [MOST, 1]


def test_methods_say_what_they_are(text: str) -> None:
    told = {method["label"]: method for method in data_of(text)["methods"]}
    assert (
        told["acdc"].items()
        >= {
            "label": "acdc",
            "family": "Mask search",
            "title": "ACDC over heads",
            "unit": "heads",
            "track": "no training",
            "settings": {"rounds": "3"},
            **PAPER,
        }.items()
    )
    assert told["rl-ppo"]["track"] == "trained on the model it is scored on"
    assert "link" not in told["random"]


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "//evil", 3, None])
def test_only_addresses_of_the_web_become_links(link: Any) -> None:
    told = record().replace(info={"method": {"title": "t", "link": link}})
    shown = board(rows([told]))
    (method,) = data_of(pages_module.pages(shown, [], [], Path())["index.html"])["methods"]
    assert "link" not in method


@pytest.mark.parametrize("info", [{}, {"method": None}, {"method": [1]}, {"method": {}}])
def test_a_method_that_says_nothing_is_called_by_its_name(info: Any) -> None:
    shown = board(rows([record().replace(info=info)]))
    (method,) = data_of(pages_module.pages(shown, [], [], Path())["index.html"])["methods"]
    assert method["label"] == "acdc"
    assert method["family"] == "other"
    assert not method.keys() & {"title", "paper", "link", "needs", "unit"}


def test_ids_are_unique(text: str) -> None:
    found = re.findall(r'\sid="([^"]+)"', text)
    assert len(found) == len(set(found))
