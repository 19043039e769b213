"""Archives: the records of a folder in a few compressed files that read like a folder.

An archive is a zip file. Its records stand together in blocks, ``0001.xz`` and so on, because
they resemble each other; unpacked (``unzip``, then ``xz -d``) a block is the records' files one
after the other. ``index.json`` says which record stands where, with its SHA-256. The same
records give the same bytes. One record is read by unpacking one block.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import zipfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from circuitbench.core.errors import CorruptRecord

SUFFIX = ".zip"
_INDEX = "index.json"
_BLOCK_BYTES = 500_000  # unpacked; one record costs the unpacking of one block
_LARGEST = 1 << 28  # bytes of an unpacked block or index: more is an attack or an accident
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4, "lp": 0, "pb": 0}]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # no time of packing: the bytes follow from the records alone
_Count = Annotated[int, Field(ge=0, le=_LARGEST)]


class Member(BaseModel):
    """One record in an archive: file name, block, place in the unpacked block, SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*[.]json$")
    block: str
    offset: _Count
    size: _Count
    sha256: str


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    archive: Literal[1]
    records: list[Member]


def pack(files: Iterable[tuple[str, bytes]]) -> bytes:
    """The archive of named record files, which are stored in the order given."""
    listed: list[dict[str, str | int]] = []
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        for number, block in enumerate(_blocks(files), 1):
            name, offset = f"{number:04}.xz", 0
            for file, data in block:
                listed.append(
                    {
                        "name": file,
                        "block": name,
                        "offset": offset,
                        "size": len(data),
                        "sha256": hashlib.sha256(data).hexdigest(),
                    }
                )
                offset += len(data)
            whole = b"".join(data for _, data in block)
            target.writestr(zipfile.ZipInfo(name, _EPOCH), lzma.compress(whole, filters=_FILTERS))
        lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in listed)
        index = zipfile.ZipInfo(_INDEX, _EPOCH)
        index.compress_type = zipfile.ZIP_DEFLATED
        target.writestr(index, f'{{"archive": 1, "records": [\n{lines}\n]}}\n')
    return packed.getvalue()


def members(path: Path) -> list[Member]:
    """What the archive at ``path`` holds; raises :class:`CorruptRecord` naming a broken one."""
    return list(_directory(path, *_state(path)).values())


def read_member(path: Path, name: str) -> bytes:
    """The text of one record; raises :class:`CorruptRecord` naming it or its archive."""
    state = _state(path)
    member = _directory(path, *state).get(name)
    if member is None:
        raise CorruptRecord(f"{path / name}: the archive holds no such record")
    block = _block(path, member.block, *state)
    data = block[member.offset : member.offset + member.size]
    if hashlib.sha256(data).hexdigest() != member.sha256:
        raise CorruptRecord(f"{path / name}: checksum does not match; the archive was edited")
    return data


def _blocks(files: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    block: list[tuple[str, bytes]] = []
    size = 0
    for name, data in files:
        if block and size + len(data) > _BLOCK_BYTES:
            yield block
            block, size = [], 0
        block.append((name, data))
        size += len(data)
    if block:
        yield block


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise CorruptRecord(f"{path}: cannot be read ({error.strerror})") from error
    return stat.st_size, stat.st_mtime_ns


# Both caches are keyed by the file's state as well: a rewritten archive is read again.
@lru_cache(maxsize=64)
def _directory(path: Path, size: int, mtime_ns: int) -> dict[str, Member]:
    try:
        with zipfile.ZipFile(path) as source:
            index = _Index.model_validate_json(_content(source, _INDEX))
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        raise CorruptRecord(
            f"{path}: its {_INDEX} cannot be read ({found['msg']}); was it written by a newer "
            "circuitbench?"
        ) from error
    except KeyError as error:
        raise CorruptRecord(f"{path}: not an archive of records (no {_INDEX})") from error
    except Exception as error:  # zipfile raises of many kinds on damaged files
        raise CorruptRecord(f"{path}: truncated or damaged archive ({_line(error)})") from error
    found_members = {member.name: member for member in index.records}
    if len(found_members) < len(index.records):
        raise CorruptRecord(f"{path}: its {_INDEX} lists a record twice")
    return found_members


@lru_cache(maxsize=4)
def _block(path: Path, block: str, size: int, mtime_ns: int) -> bytes:
    try:
        with zipfile.ZipFile(path) as source:
            packed = _content(source, block)
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LARGEST)
        return unpacker.decompress(packed, max_length=_LARGEST)
    except Exception as error:  # as above; lzma adds its own
        raise CorruptRecord(
            f"{path}: block {block} is damaged and its records are lost ({_line(error)})"
        ) from error


def _content(source: zipfile.ZipFile, name: str) -> bytes:
    if source.getinfo(name).file_size > _LARGEST:
        raise CorruptRecord(f"{name} is larger than {_LARGEST} bytes")
    return source.read(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
