"""The verbs of circuit files: export, import, score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from circuitbench.cli.display import err_console, out_console
from circuitbench.cli.options import fail
from circuitbench.core.errors import CircuitBenchError, InvalidSpec, UnknownName

if TYPE_CHECKING:
    from circuitbench.core.circuit import Circuit
    from circuitbench.files import CircuitFile, Config
    from circuitbench.files.records import Answer
    from circuitbench.models.base import Model
    from circuitbench.results import Record


# Metrics of the committed set, which a file that only scores does not name.
_OF_SETS = ("f1", "mcc")
_OF_EDGE_SETS = ("edge_f1", "edge_mcc", "edge_precision", "edge_recall")


def _file_options(command: Any) -> Any:
    """What every verb takes that reads a circuit file."""
    options = [
        click.argument("file", type=Path),
        click.option("--task", required=True, help="The task; see `circuitbench list tasks`."),
        click.option("--model", help="Model, or model@variant; default: the task's own."),
        click.option(
            "--ranking", help="absolute or signed scores; default: as the file says, or absolute."
        ),
        click.option(
            "--top", type=int, help="Take this many best edges (or heads) as the circuit."
        ),
        click.option("--entry", default="", help="TASK/ALGORITHM in a file of auto-circuit."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("record", type=Path, metavar="RECORD.json|RESULTS")
@click.option("--format", "format_", default="eap-ig-json", show_default=True, help="See below.")
@click.option("--out", type=Path, required=True, help="The file (a submission: the folder).")
@click.option("--mib-submission", is_flag=True, help="Lay out a folder of records for MIB.")
@click.option("--binary", is_flag=True, help="A submission of nine circuits instead of scores.")
@click.option("--method", help="A submission of this method, where RESULTS holds several.")
@click.option("--seed", type=int, help="A submission of this seed, where RESULTS holds several.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="TASK/MODEL=FOLDER",
    help="What MIB calls a task and model of ours.",
)
def export(
    record: Path,
    format_: str,
    out: Path,
    mib_submission: bool,
    binary: bool,
    method: str | None,
    seed: int | None,
    names: tuple[str, ...],
) -> None:
    """Write a run's circuit as a file of another tool, or runs as a submission to MIB.

    Formats: eap-ig-json, eap-ig-pt (EAP-IG and MIB), auto-circuit, csv (edges; of a record of
    heads, heads), csv-nodes (heads). What a format cannot hold is said on standard error.

    \b
    Example:
      circuitbench export RECORD.json --format eap-ig-json --out circuit.json
      circuitbench export results/ --mib-submission --method acdc --out submission/
    """
    from circuitbench.files import named, write
    from circuitbench.results import read_record

    named(format_)
    if mib_submission:
        _submission(record, format_, out, binary, method, seed, names)
        return
    loaded = read_record(record)
    for line in write(_circuit(loaded), out, format_):
        _note(line)
    out_console.print(f"circuit: {out}", soft_wrap=True)


@click.command(name="import")
@_file_options
@click.option("--method-name", required=True, help="What the circuit stands under on the board.")
@click.option("--out", type=Path, default=Path("results"), show_default=True, help="For records.")
def import_(method_name: str, out: Path, **options: Any) -> None:
    """Make a record of a circuit that was found elsewhere, for the board's own section of such.

    Its cost is unknown, so it is never ranked among methods.

    \b
    Example:
      circuitbench import circuit.json --task gpt2-ioi --model gpt2 --method-name eap-ig
    """
    from circuitbench.files.records import external_record
    from circuitbench.results import check_name, truth_of, write_record

    check_name("method", method_name)
    circuit, found, model, truth = _answer(**options)
    record = external_record(
        found,
        options["file"],
        task=options["task"],
        model=model,
        method=method_name,
        truth=truth_of(truth),
        choices={"ranking": circuit.ranking, "top": options["top"], "entry": options["entry"]},
    )
    out_console.print(f"record: {write_record(record, out)}", soft_wrap=True)


@click.command()
@_file_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def score(as_json: bool, **options: Any) -> None:
    """Hold a circuit file against the truth of a task; nothing is stored.

    \b
    Example:
      circuitbench score circuit.json --task ioi --model planted
      circuitbench score scores.pt --task ioi --top 50
    """
    from circuitbench.evaluation.metrics import metrics
    from circuitbench.evaluation.outcome import Outcome
    from circuitbench.results import truth_of
    from circuitbench.results.discovery import plain_discovery

    _, found, model, truth = _answer(**options)
    outcome = Outcome(plain_discovery(found.discovery), truth_of(truth), {}, {})
    rows: list[tuple[str, str, float | None, float | None]] = []
    for key, measure in metrics().items():
        if key in _OF_SETS and not found.discovery.selected:
            continue
        if key in _OF_EDGE_SETS and found.discovery.selected_edges is None:
            continue
        if measure.kind in ("quality", "edges") and (value := measure.of(outcome)) is not None:
            chance = None if measure.chance is None else measure.chance(outcome)
            rows.append((key, measure.title, value, chance))
    if as_json:
        content = {key: {"value": value, "chance": chance} for key, _, value, chance in rows}
        click.echo(json.dumps(content, indent=1))
        return
    table = Table(title=f"{options['file'].name} on {options['task']} ({model.name})")
    for column in ("measure", "value", "chance"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for _, title, *numbers in rows:
        table.add_row(title, *("-" if n is None else f"{n:.3f}" for n in numbers))
    out_console.print(table)
    if truth.edges is None:
        _note("the truth of this task names heads only; edges are not scored")


def _answer(
    file: Path, task: str, model: str | None, ranking: str | None, top: int | None, entry: str
) -> tuple[CircuitFile, Answer, Model, Circuit]:
    """The file, what it answers, the model, and the truth."""
    from circuitbench.files import RANKINGS
    from circuitbench.files.records import answer, read_for
    from circuitbench.plugins.registry import load_model, load_task

    chosen = next((known for known in RANKINGS if known == ranking), None)
    if ranking is not None and chosen is None:
        raise UnknownName("ranking", ranking, RANKINGS)
    loaded = load_task(task)
    subject = load_model(model or loaded.default_model)
    circuit = read_for(file, subject, chosen, entry)
    try:
        found = answer(circuit, top)
    except CircuitBenchError as error:
        raise type(error)(f"{file}: {error}") from error
    if top is None and circuit.edges_in is None and circuit.nodes_in is None:
        _note(f"{file} names no edge or head as in the circuit; --top N takes the N best")
    truth = loaded.truth(subject)
    if truth is None:
        raise InvalidSpec(
            f"nobody knows the circuit of {task} in {subject.name}, so no file can be scored"
        )
    return circuit, found, subject, truth


def _circuit(record: Record) -> CircuitFile:
    """The circuit of a record, with what its model is if that can be had here."""
    from circuitbench.files.records import from_record

    return from_record(record, _config(record.model_name))


def _config(name: str) -> Config | None:
    from circuitbench.files.records import config_of
    from circuitbench.plugins.registry import load_model

    try:
        return config_of(load_model(name))
    except CircuitBenchError:  # not installed, or its weights are not here
        return None


def _submission(
    results: Path,
    format_: str,
    out: Path,
    binary: bool,
    method: str | None,
    seed: int | None,
    names: tuple[str, ...],
) -> None:
    from circuitbench.files import mib

    given = dict(map(_naming, names))
    circuits: dict[str, CircuitFile] = {}
    wrong = []
    for record in _submitted(results, method, seed):
        ours = f"{record.task}/{record.model_name}"
        folder = given.get(ours) or mib.folder_of(record.task, record.model_name)
        if folder is None:
            wrong.append(f"{ours}: not a task and model of the track, left out; see --name")
        elif folder in circuits:
            wrong.append(f"{ours}: {folder} is there already, left out")
        else:
            circuits[folder] = _circuit(record)
    paths = mib.lay_out(circuits, out, format_, binary) if circuits else []
    wrong += mib.check(out) if paths else ["nothing to submit"]
    out_console.print(f"{len(paths)} files in {len(circuits)} folders: {out}", soft_wrap=True)
    for line in wrong:
        click.echo(line)
    if wrong:
        fail(f"{len(wrong)} things keep {out} from being a submission to MIB", 1)


def _naming(text: str) -> tuple[str, str]:
    from circuitbench.files.mib import FOLDERS

    ours, equals, folder = text.partition("=")
    if not equals or ours.count("/") < 1:
        raise InvalidSpec(f"--name takes TASK/MODEL=FOLDER, not {text!r}")
    if folder not in FOLDERS:
        raise UnknownName("folder of MIB", folder, FOLDERS)
    return ours, folder


def _submitted(results: Path, method: str | None, seed: int | None) -> list[Record]:
    """The finished records of one method and seed."""
    from circuitbench.results import read_folder

    records = [record for record in read_folder(results)[0] if record.status == "done"]
    for kind, wanted in (("method", method), ("seed", seed)):
        found = sorted({getattr(record, kind) for record in records})
        if wanted is not None and wanted not in found:
            raise UnknownName(kind, str(wanted), map(str, found))
        if wanted is None and len(found) > 1:
            raise InvalidSpec(f"{results} holds several {kind}s; choose one with --{kind}: {found}")
        if wanted is not None:
            records = [record for record in records if getattr(record, kind) == wanted]
    if not records:
        raise InvalidSpec(f"no finished records in {results}")
    return records


def _note(text: str) -> None:
    err_console.print(f"note: {text}", style="yellow", markup=False, soft_wrap=True)
