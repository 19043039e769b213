"""Archives: a folder in a few files, read like one, and damage named."""

from __future__ import annotations

import json
import lzma
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from records_kit import fill, make

from circuitbench.core.errors import CorruptRecord, InvalidSpec
from circuitbench.results import (
    Record,
    entries,
    find_record,
    read_folder,
    read_record,
    write_record,
)
from circuitbench.results.archive import members
from circuitbench.results.packing import pack_folder
from circuitbench.results.text import to_bytes


def records(n: int = 6, size: int = 2) -> list[Record]:
    rng = np.random.default_rng(0)
    made = [make(seed) for seed in range(n)]
    made += [make(seed, spec={**make(seed).spec, "method": "random"}) for seed in range(n // 2)]
    return [
        one.replace(discovery={**one.discovery, "info": {"noise": rng.random(size)}})
        for one in made
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "loose", *records())


def test_an_archive_reads_like_the_folder(folder: Path, tmp_path: Path) -> None:
    packed = pack_folder(folder, tmp_path / "out")
    assert [path.name for path in packed.archives] == ["acdc.zip", "random.zip"]
    assert packed.n_records == 9
    again, problems = read_folder(tmp_path / "out")
    assert (again, problems) == (read_folder(folder)[0], [])
    loose = {path.name: path.read_bytes() for path in folder.iterdir()}
    for one in again:
        assert one.path is not None
        assert one.path.parent.suffix == ".zip"
        assert to_bytes(one) == loose[one.path.name]
        assert read_record(one.path) == one
        assert find_record(one.run_id, tmp_path / "out") == one
    listed, _ = entries(tmp_path / "out")
    assert {entry.path for entry in listed} == {one.path for one in again}
    assert all(len(entry.digest) == 64 and entry.size for entry in listed)


def test_the_same_records_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = pack_folder(folder, tmp_path / "a").archives
    second = pack_folder(tmp_path / "a", tmp_path / "b").archives
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_ordinary_tools_unpack_it(folder: Path, tmp_path: Path) -> None:
    path, _ = pack_folder(folder, tmp_path / "out").archives
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        unpacked = lzma.decompress(archive.read("0001.xz")).decode()
    assert unpacked.count('"schema": 2') == 6


def test_blocks_keep_one_record_cheap(tmp_path: Path) -> None:
    fill(tmp_path / "loose", *records(8, 10_000))
    path, _ = pack_folder(tmp_path / "loose", tmp_path / "out").archives
    listed = members(path)
    assert len({member.block for member in listed}) > 2
    assert read_folder(tmp_path / "out")[0] == read_folder(tmp_path / "loose")[0]


def test_packing_in_place_can_remove_what_it_replaces(folder: Path, tmp_path: Path) -> None:
    before, _ = read_folder(folder)
    broken = folder / "broken.json"
    broken.write_text("{")
    other = folder / "other.json"
    other.write_bytes(to_bytes(before[0].replace(created="2030")))
    warned: list[str] = []
    packed = pack_folder(folder, folder, remove=True, warn=warned.append)
    assert packed.n_removed == 9
    assert sorted(path.name for path in folder.iterdir()) == [
        "acdc.zip",
        "broken.json",
        "other.json",
        "random.zip",
    ]
    assert len(warned) == 2
    assert str(broken) in warned[0]
    assert read_folder(folder)[0] == before


def test_packing_adds_to_what_an_archive_holds(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_folder(folder, out)
    fill(tmp_path / "more", make(77))
    assert pack_folder(tmp_path / "more", out).n_records == 7
    assert len(read_folder(out)[0]) == 10


def test_a_folder_may_hold_both_and_a_differing_duplicate_is_named_twice(
    folder: Path, tmp_path: Path
) -> None:
    pack_folder(folder, folder)
    kept, problems = read_folder(folder)
    assert (len(kept), problems) == (9, [])
    newer = kept[0].replace(created="2030")
    assert newer.run_id == kept[0].run_id
    loose = write_record(newer, folder)
    kept, (problem,) = read_folder(folder)
    assert problem.path == loose
    assert str(folder / "acdc.zip" / loose.name) in problem.message


def test_an_archive_cut_short_anywhere_is_one_line_and_the_rest_is_read(
    folder: Path, tmp_path: Path
) -> None:
    path, other = pack_folder(folder, tmp_path / "out").archives
    whole, n_others = path.read_bytes(), len(members(other))
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        kept, problems = read_folder(path.parent)
        assert len(kept) == n_others
        (problem,) = problems
        assert problem.path == path
        assert "truncated or damaged archive" in problem.message
        assert "\n" not in str(problem)


def test_flipped_bits_are_noticed_and_never_change_a_record(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path, _ = pack_folder(folder, out).archives
    whole, good = path.read_bytes(), {one.run_id: one for one in read_folder(out)[0]}
    rng = random.Random(1)
    noticed = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        kept, problems = read_folder(out)
        assert all(good[one.run_id] == one for one in kept)
        assert len(kept) == len(good) or problems
        assert all("\n" not in str(problem) for problem in problems)
        noticed += bool(problems)
    assert noticed > 200  # what goes unnoticed lies in fields that nothing reads


def test_a_damaged_block_is_one_problem_and_the_other_blocks_are_read(tmp_path: Path) -> None:
    fill(tmp_path / "loose", *records(8, 10_000))
    path, _ = pack_folder(tmp_path / "loose", tmp_path / "out").archives
    listed = members(path)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("0002.xz").header_offset
    damaged = bytearray(path.read_bytes())
    damaged[offset + 500] ^= 1
    path.write_bytes(damaged)
    kept, (problem,) = read_folder(path.parent)
    assert problem.path == path
    assert problem.message.startswith("block 0002.xz is damaged and its records are lost")
    lost = sum(member.block == "0002.xz" for member in listed)
    assert len(kept) == 12 - lost
    assert lost > 1


def test_what_an_archive_lists_is_checked(folder: Path, tmp_path: Path) -> None:
    path, _ = pack_folder(folder, tmp_path / "out").archives
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    index = json.loads(content["index.json"])

    def rewrite(**changes: object) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                if name != "index.json":
                    archive.writestr(name, data)
            archive.writestr("index.json", json.dumps({**index, **changes}))

    first, *rest = index["records"]
    damages: list[tuple[dict[str, object], str]] = [
        ({"archive": 2}, "newer"),
        ({"records": [first, first]}, "lists a record twice"),
        ({"records": [{**first, "name": "../../x.json"}]}, "index.json cannot be read"),
        ({"records": [{**first, "offset": -1}]}, "index.json cannot be read"),
        ({"records": [{**first, "block": "0009.xz"}]}, "block 0009.xz is damaged"),
        ({"records": [{**first, "sha256": "0" * 64}]}, "checksum does not match"),
        ({"records": [{**first, "size": first["size"] - 1}]}, "checksum does not match"),
    ]
    for changes, fault in damages:
        rewrite(**changes)
        problems = read_folder(path.parent)[1]
        assert len(problems) == 1
        assert fault in problems[0].message
        assert str(path) in str(problems[0])
    assert len(rest) == 5

    path.write_bytes(b"")
    with pytest.raises(CorruptRecord, match=r"acdc\.zip"):
        members(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(CorruptRecord, match="not an archive of records"):
        members(path)
    with pytest.raises(CorruptRecord, match="no such record"):
        read_record(tmp_path / "out" / "random.zip" / "absent.json")


def test_an_archive_that_cannot_be_read_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    path, _ = pack_folder(folder, tmp_path / "out").archives
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CorruptRecord, match=r"acdc\.zip"):
        pack_folder(folder, tmp_path / "out")
    assert len(path.read_bytes()) == 500
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSpec, match="no records in"):
        pack_folder(tmp_path / "empty", tmp_path / "out")


def test_a_killed_packing_leaves_every_record_readable(folder: Path, tmp_path: Path) -> None:
    before, _ = read_folder(folder)
    program = (
        "import os, sys; from circuitbench.results import files, packing\n"
        "real = os.replace\n"
        "def die(a, b): real(a, b); os._exit(9)\n"
        "files.os.replace = die\n"
        f"packing.pack_folder({str(folder)!r}, {str(folder)!r}, remove=True)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert (folder / "acdc.zip").exists()
    assert read_folder(folder) == (before, [])


def test_an_archive_is_not_read_as_a_record(folder: Path, tmp_path: Path) -> None:
    (path, _) = pack_folder(folder, tmp_path / "out").archives
    with pytest.raises(CorruptRecord, match=r"acdc\.zip: an archive, not a record"):
        read_record(path)
