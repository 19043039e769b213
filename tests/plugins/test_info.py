"""What plug-ins say of themselves, and that it is read without importing them."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitbench.checks.contracts import (
    ToyTask,
    UndescribedPlugin,
    check_method,
    check_model,
    check_task,
    toy_model,
)
from circuitbench.core.circuit import Edge
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidPlugin, InvalidSpec, ModelUnavailable, UnknownName
from circuitbench.core.info import Info, attached
from circuitbench.models.planted.presets import planted
from circuitbench.plugins import registry
from circuitbench.plugins.behaviours import behaviours
from circuitbench.plugins.info import Unreadable, read_info
from circuitbench.plugins.registry import KINDS, Kind, describe, find, info_of, list_plugins
from circuitbench.tasks.text.task import read_shipped

OURS = [(kind, p.name) for kind in KINDS for p in list_plugins(kind)]


@pytest.mark.parametrize(("kind", "name"), OURS)
def test_the_source_says_what_the_imported_object_says(kind: Kind, name: str) -> None:
    shipped = kind == "task" and name in behaviours()
    said = read_shipped(name).info if shipped else attached(find(kind, name))
    assert said is not None
    assert describe(kind, name) == said
    assert said.family != "other"
    # A citation leads somewhere; only what was made for this benchmark has none.
    assert bool(said.paper) == said.link.startswith("https://")
    ours = name.startswith(("random", "planted", "folder"))
    assert said.paper or said.family == "Control" or ours


@pytest.mark.parametrize("name", [name for kind, name in OURS if kind == "model"])
def test_every_model_keeps_the_contract(name: str) -> None:
    if name in ("hf", "folder", "interpbench"):  # they are made of what follows the colon
        with pytest.raises(InvalidSpec, match=f"^{name}: needs a"):
            find("model", name)("")
        return
    try:
        check_model(find("model", name))
    except ModelUnavailable as error:
        pytest.skip(str(error))


def test_describing_imports_no_plugin_and_no_parent_of_one() -> None:
    code = (
        "import sys; from circuitbench.plugins.registry import KINDS, describe, list_plugins; "
        "assert all(describe(k, p.name).family != 'other' for k in KINDS for p in list_plugins(k));"
        "heavy = {'torch', 'numpy', 'gymnasium', 'circuitbench_agents', 'circuitbench_baselines'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_record_is_told_who_ran() -> None:
    found = info_of("acdc", "ioi", "planted@3")
    assert found["method"]["title"] == "ACDC over heads"
    assert found["method"]["needs"] == ["counterfactuals"]
    assert (found["task"]["paper"], found["model"]["family"]) == ("Wang et al. 2022", "Planted")
    unknown = info_of("none", "none", "org/none@folded")
    assert unknown["model"]["title"] == "org/none"
    assert {entry["family"] for entry in unknown.values()} == {"other"}


SOURCES = {
    "plain": "class M: ...",
    "computed": "from x import Info\n@Info(title='a' + NAME, family='b')\nclass M: ...",
    "misspelt": "@Info(title='a', famly='b')\nclass M: ...",
    "wrong": "@Info(title='a', family='b', needs=('gradient',))\nclass M: ...",
    "broken": "class M(:",
    "elsewhere": "from os import path",
    "empty": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose every import would fail, and must not happen."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\nfrom .good import M")
    (folder / "good.py").write_text(
        "import no_such_thing\n\n"
        "@other\n@circuitbench.Info('A title', 'A family', needs=('gradients',))\ndef M(): ...\n"
    )
    for name, text in SOURCES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_info_is_read_from_modules_that_cannot_be_imported(package: Path) -> None:
    expected = Info("A title", "A family", needs=("gradients",))
    assert read_info("stranger.good:M") == expected
    assert read_info("stranger:M") == expected  # through `from .good import M`
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("name", [*SOURCES, "absent", "good.deeper"])
def test_what_cannot_be_read_has_a_reason(
    package: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreadable) as refusal:
        read_info(f"stranger.{name}:M")
    assert len(str(refusal.value).splitlines()) == 1
    entry = EntryPoint("shady", f"stranger.{name}:M", "circuitbench.methods")
    monkeypatch.setattr(registry, "_entries", lambda kind: [entry])
    assert describe("method", "shady") == Info("shady", "other")
    assert "stranger" not in sys.modules


def test_info_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UnknownName, match="did you mean 'gradients'"):
        Info("a", "b", needs=("gradient",))  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'heads'"):
        Info("a", "b", granularity="head")  # type: ignore[arg-type]
    with pytest.raises(InvalidPlugin, match="must not be empty"):
        Info(" ", "b")
    with pytest.raises(InvalidPlugin, match="tuple"):
        Info("a", "b", needs="gradients")  # type: ignore[arg-type]


def test_a_subclass_does_not_inherit_it() -> None:
    @Info("a", "b")
    class Parent: ...

    class Child(Parent): ...

    assert attached(Parent) == Info("a", "b")
    assert attached(Child) is None


@dataclass(frozen=True)
class Silent:
    """A method that asks for gradients on the counterfactual prompts, and does not say so."""

    def discover(self, oracle: Any, rng: np.random.Generator) -> Discovery:
        grid = oracle.gradient(oracle.head_masks()[:1].float(), ablation="resample")[0]
        return Discovery(grid.double().numpy(), frozenset())


@Info("Half honest", "Test", needs=("gradients",))
@dataclass(frozen=True)
class HalfHonest(Silent): ...


@Info("Honest", "Test", needs=("gradients", "counterfactuals"))
@dataclass(frozen=True)
class Honest(Silent): ...


@Info("No edges", "Test", granularity="edges", needs=("gradients", "counterfactuals"))
@dataclass(frozen=True)
class NoEdges(Silent): ...


@Info("Edges", "Test", needs=("gradients", "counterfactuals"))
@dataclass(frozen=True)
class Edges(Silent):
    def discover(self, oracle: Any, rng: np.random.Generator) -> Discovery:
        found = super().discover(oracle, rng)
        return Discovery(found.scores, frozenset(), {Edge("embed", "logits"): 1.0})


@Info("Untrained", "Test", needs=("gradients", "counterfactuals", "training"))
@dataclass(frozen=True)
class Untrained(Silent): ...


@Info("Honest".upper(), "Test", needs=("gradients", "counterfactuals"))
@dataclass(frozen=True)
class Computed(Silent): ...


def test_a_method_says_what_it_asks_for() -> None:
    check_method(Honest)
    with pytest.warns(UndescribedPlugin, match="Silent is decorated with no Info"):
        check_method(Silent)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (HalfHonest, "asked for counterfactuals"),
        (NoEdges, "no edges, so granularity is 'heads'"),
        (Edges, "edges, so granularity is 'edges'"),
        (Untrained, r"without train\(\) does not need 'training'"),
        (Computed, "is not literal"),
    ],
)
def test_a_method_that_says_otherwise_is_caught(cls: Any, message: str) -> None:
    with pytest.raises(InvalidPlugin, match=message):
        check_method(cls)


@Info("Toy", "Test", needs=("mlps",))
class BoastfulTask(ToyTask): ...


def test_a_task_says_what_its_truth_lists() -> None:
    with pytest.raises(InvalidPlugin, match="'mlps' does not belong"):
        check_task(BoastfulTask(), toy_model())


def test_a_model_that_is_none_is_caught() -> None:
    check_model(planted)
    with (
        pytest.warns(UndescribedPlugin),
        pytest.raises(InvalidPlugin, match="must return a Model"),
    ):
        check_model(lambda variant="": 3)  # type: ignore[arg-type]
