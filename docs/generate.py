"""The pages that are made of what is installed: a card per plug-in, and the reference."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import circuitbench
from circuitbench.evaluation.metrics import metrics
from circuitbench.plugins.behaviours import behaviours
from circuitbench.plugins.registry import Kind, describe, find, list_plugins, load_task

HERE = Path(__file__).parent
FOLDER = "generated"  # beside this file, ignored by git


def write(folder: Path) -> None:
    """All pages, into ``folder``; what did not change is not written again."""
    folder.mkdir(exist_ok=True)
    pages = {
        "methods.md": _cards("method", "Methods"),
        "tasks.md": _cards("task", "Tasks"),
        "models.md": _cards("model", "Models"),
        "all-metrics.md": _metrics(),
        "reference.rst": _reference(),
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _cards(kind: Kind, title: str) -> str:
    """A section per plug-in: what it says of itself, its docstring, its settings."""
    parts = [f"# {title}", f"What `circuitbench list {kind}s` lists, from the plug-ins themselves."]
    plugins = [p for p in list_plugins(kind) if p.origin.startswith("circuitbench ")]
    for plugin in plugins:
        info, thing = describe(kind, plugin.name), _thing(kind, plugin.name)
        parts.append(f"## {plugin.name}")
        facts = [f"**{info.title}**", info.family]
        if info.paper:
            facts.append(f"[{info.paper}]({info.link})")
        if info.needs:
            facts.append(f"needs {', '.join(info.needs)}")
        if info.granularity == "edges":
            facts.append("edges")
        parts.append(" · ".join(facts))
        parts.append(_plain(inspect.getdoc(thing) or ""))
        if kind == "method" and dataclasses.is_dataclass(thing):
            parts.append(_settings(thing))
        if kind == "task":
            default = getattr(thing() if isinstance(thing, type) else thing, "default_model", None)
            parts.append(f"Runs on `{default}` by default." if default else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def _thing(kind: Kind, name: str) -> object:
    """The plug-in; of a behaviour that is a file, the task it makes."""
    return load_task(name) if kind == "task" and name in behaviours() else find(kind, name)


def _settings(cls: type) -> str:
    rows = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = field.default
        if default is dataclasses.MISSING:
            default = field.default_factory()  # type: ignore[misc]
        if dataclasses.is_dataclass(default):
            rows += [f"| `{field.name}.{k}` | `{v!r}` |" for k, v in vars(default).items()]
        else:
            rows.append(f"| `{field.name}` | `{default!r}` |")
    return "\n".join(["| setting | default |", "|---|---|", *rows]) if rows else ""


def _plain(docstring: str) -> str:
    """The prose of a docstring as Markdown: without the list of arguments, roles as code."""
    prose = re.split(r"^(?:Args|Raises|Returns|Attributes):", docstring, flags=re.M)[0].strip()
    prose = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", prose)
    prose = re.sub(r"``([^`]+)``", r"`\1`", prose)
    return prose.replace("::\n", ":\n")


def _metrics() -> str:
    rows = [
        f"| `{key}` | {m.title} | {m.kind} | {m.better} | {m.about.replace('|', '/')} |"
        for key, m in metrics().items()
    ]
    head = ["# All metrics", "", "What each means is in [metrics](../metrics.md).", ""]
    table = ["| key | title | kind | better | what it is |", "|---|---|---|---|---|", *rows]
    return "\n".join([*head, *table]) + "\n"


def _reference() -> str:
    """Every public name with its docstring, in the order of the table in python.md."""
    text = (HERE / "python.md").read_text(encoding="utf-8")
    parts = ["Reference", "=" * 9, "", "Every name that ``circuitbench`` exports.", ""]
    for row in re.findall(r"^\| (.+?) \| (`.+`.*) \|$", text[text.index("| to |") :], re.M):
        heading = f"To {row[0]}"
        parts += [heading, "-" * len(heading), ""]
        for name in re.findall(r"`(\w+)`", row[1]):
            thing = getattr(circuitbench, name)
            if inspect.isclass(thing):
                parts += [f".. autoclass:: circuitbench.{name}", ""]
            elif inspect.isfunction(thing):
                parts += [f".. autofunction:: circuitbench.{name}", ""]
            else:
                parts += [f".. py:data:: circuitbench.{name}", f"   :value: {_short(thing)}", ""]
    return "\n".join(parts) + "\n"


def _short(thing: object) -> str:
    text = " ".join(str(thing).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
