"""The public face: cheap to import, complete, and the same for people and type checkers."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import circuitbench

PROMISED = [
    "load_model",
    "load_task",
    "load_method",
    "run",
    "evaluate",
    "Oracle",
    "Discovery",
    "TracePoint",
    "Circuit",
    "Head",
    "Edge",
    "Role",
    "Info",
    "InvalidSpec",
    "BudgetExceeded",
    "heads_of",
    "head_grid",
    "Prompts",
    "Task",
    "Model",
    "Transformer",
    "Batch",
    "Damages",
    "query_together",
    "GRADIENT_COST",
    "generator",
]


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'pydantic', 'pandas', 'click', 'rich'}"
    code = f"import circuitbench, sys; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_brings_only_what_it_needs() -> None:
    code = (
        "from circuitbench import Circuit, Discovery, Info, InvalidSpec, generator, list_plugins;"
        "import sys; assert not {'torch', 'pydantic', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", PROMISED)
def test_what_is_promised_is_there(name: str) -> None:
    assert getattr(circuitbench, name) is getattr(circuitbench, name)
    assert name in dir(circuitbench)


def test_every_public_name_exists_and_is_documented() -> None:
    names = circuitbench._homes()
    assert set(PROMISED) < set(names)
    for name in names:
        value = getattr(circuitbench, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_a_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Orakel'"):
        _ = circuitbench.Orakel  # type: ignore[attr-defined]


def test_a_type_checker_sees_the_names_and_refuses_others(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(
        "import circuitbench\n"
        "from circuitbench import Oracle, heads_of\n"
        "oracle: Oracle = circuitbench.load_task('ioi')\n"
        "circuitbench.orakel\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "use.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(Path(circuitbench.__file__).parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'has type "Task", variable has type "Oracle"' in done.stdout, done.stdout + done.stderr
    assert 'Module has no attribute "orakel"' in done.stdout
    assert "Found 2 errors" in done.stdout


def test_run_and_evaluate_from_python() -> None:
    found = circuitbench.run("random", task="ioi", seed=3, batch_size=4, functional="none")
    assert (found.method, found.task, found.seed, found.status) == ("random", "ioi", 3, "done")
    task = circuitbench.load_task("ioi")
    model = circuitbench.load_model(task.default_model)
    method = circuitbench.load_method("random", share=0.25)
    oracle = circuitbench.Oracle(model, task, task_name="ioi", seed=0, batch_size=4)
    discovery = method.discover(oracle, circuitbench.generator(0, "method"))
    assert len(discovery.selected) == 36
    truth = task.truth(model)
    assert truth is not None
    assert circuitbench.evaluate(discovery, truth)["selection"]["size"] == 36
    with pytest.raises(circuitbench.UnknownName, match="did you mean 'share'"):
        circuitbench.load_method("random", shar=0.25)


def test_the_documentation_names_the_whole_face_and_nothing_else() -> None:
    text = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    named = set(re.findall(r"`(\w+)`", text[text.index("| to |") :]))
    assert named == set(circuitbench._homes())
