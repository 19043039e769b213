"""Records as a forger would write them: the checksum and the run id are right, the rest is not."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

from circuitbench.results.record import NOT_IDENTITY, canonical


def nested(levels: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


EVIL: tuple[Any, ...] = (
    *("\ud800", "a\udfffb", "\x00", "\x1b[31m", "\u202e", "=1+1", "\t=cmd|' /C calc'!A0", "@x"),
    *("<script>alert(1)</script>", "</script>", "${7*7}", "{{7*7}}", "\\input{x}", "$x$", "%", "|"),
    *("\u0661\u0662", "\u0967", "１２", "²", "1e5", "nan", "inf", "0x10", "1_0", "", "x" * 5_000),
    *(1e308, -1e308, 5e-324, 10**30, -(10**30), 10**400, 10**4_000, 2**63, 2**64, -1, 0, 0.5),
    *(
        True,
        None,
        [],
        {},
        [[]],
        {"x": {}},
        [None],
        {"": ""},
        {"__proto__": 1},
        {"\ud800": "\ud800"},
    ),
    *(nested(30), nested(150), [1e308, 1e308], [[1e308] * 8] * 6, {"heads": ["٩.٦"]}, "٩.٦", "9.6"),
    *("../../etc/passwd", "/etc/passwd", "..", "a" * 300),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of JSON data but the whole."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of JSON data with another value in one place."""
    changed = copy.deepcopy(content)
    within = changed
    for key in path[:-1]:
        within = within[key]
    within[path[-1]] = value
    return changed


def forge(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A record's content with one to three values replaced, or an entry renamed."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        top = rng.choice([key for key in content if key not in ("schema", "run_id")])
        inner = list(places(content[top])) if isinstance(content[top], dict | list) else []
        path = (top, *rng.choice(inner)) if inner and rng.random() < 0.95 else (top,)
        value = rng.choice(EVIL)
        if rng.random() < 0.15 and isinstance(path[-1], str) and len(path) > 1:
            path = (*path[:-1], str(value)[:200] if isinstance(value, str) else "new")
        content = put(content, path, value)
    return content


def sealed(content: dict[str, Any]) -> bytes:
    """The file of any content, with the run id and the checksum that it should have."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    spec, versions = content.get("spec"), content.get("versions")
    kept = versions.items() if isinstance(versions, dict) else ()
    identity = {"spec": spec, "versions": {k: v for k, v in kept if k not in NOT_IDENTITY}}
    content["run_id"] = hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
    lines = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in content.items()]
    body = ("{\n" + "".join(lines)).encode()
    return body + f'"checksum": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()
