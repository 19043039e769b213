"""The verbs that examine: stability, validate-task, check, doctor."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click

from circuitbench.cli.display import progress_bar
from circuitbench.cli.options import (
    control_option,
    fail,
    parse_names,
    settings_of,
    spec_options,
    truth_option,
)
from circuitbench.core.errors import InvalidSpec


@click.command()
@click.option("--method", help="Method (default rl-ppo).")
@click.option("--task", help="Task (default induction).")
@click.option("--seed", type=int, help="Root of every random draw (default 0).")
@click.option(
    "--resamples",
    default=100,
    show_default=True,
    type=click.IntRange(2),
    help="Discoveries on other prompts.",
)
@click.option(
    "--repetitions",
    default=5,
    show_default=True,
    type=click.IntRange(2),
    help="Discoveries with other seeds of the method.",
)
@click.option(
    "--perturb",
    default="prompts,seeds,templates,hyperparameters,ablation",
    show_default=True,
    help="What to change, separated by commas.",
)
@spec_options
def stability(resamples: int, repetitions: int, perturb: str, **options: Any) -> None:
    """Say how alike a method's answers are when the question is perturbed, as JSON.

    \b
    Example:
      circuitbench stability --method acdc --task ioi --resamples 20
      circuitbench stability --method acdc --task ioi --resamples 5 --perturb prompts,ablation
    """
    from circuitbench.results import plain
    from circuitbench.runs.isolation.host import in_own_processes
    from circuitbench.runs.prepare import prepare
    from circuitbench.runs.spec import build_spec
    from circuitbench.runs.stability import measure_stability

    spec = build_spec(*settings_of(options)[0])
    with progress_bar(f"stability of {spec.method}") as progress, in_own_processes() as load:
        prepared = prepare(spec, method_of=load)
        names = parse_names(perturb)
        found = measure_stability(prepared, resamples, repetitions, progress, names, load)
    click.echo(json.dumps(plain({"spec": prepared.identity, **found}), indent=1))


@click.command(name="validate-task")
@click.argument("task")
@click.option("--model", help="Model, or model@variant; default: the task's own.")
@click.option("--ablation", help="One the truth is claimed under; default: its first.")
@click.option("--seed", type=int, default=0, show_default=True, help="Root of the draws.")
@truth_option
@control_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
@click.option("--figure", type=Path, help="Also draw effects beside the truth into this PNG.")
@click.option(
    "--sparse/--no-sparse", default=True, help="Whether to ask for the behaviour's sparse circuit."
)
@click.option("--pairs", is_flag=True, help="Also ablate pairs of true heads: who stands in?")
def validate_task(
    task: str,
    model: str | None,
    ablation: Any,
    seed: int,
    truth: str | None,
    control: str | None,
    device: Any,
    as_json: bool,
    figure: Path | None,
    sparse: bool,
    pairs: bool,
) -> None:
    """Put a task and its truth through the health gate; say whether it has a sparse circuit.

    \b
    Example:
      circuitbench validate-task ioi
      circuitbench validate-task ioi --model planted-redundant@3 --figure ioi.png
      circuitbench validate-task docstring --model planted-redundant --pairs
      circuitbench validate-task ./my-task.yaml --model gpt2
    """
    from circuitbench.checks import health, health_card, redundancy, sparsity
    from circuitbench.core.seeding import generator
    from circuitbench.oracle import Oracle
    from circuitbench.oracle.engine.devices import resolve_device
    from circuitbench.plugins.registry import load_model, load_task
    from circuitbench.results import write_atomically
    from circuitbench.runs.spec import RunSpec, build_spec
    from circuitbench.tasks.text.task import TextTask

    build_spec({"seed": seed, "device": device, "ablation": ablation or RunSpec.ablation})
    loaded = load_task(task, truth, control)
    if isinstance(loaded, TextTask):
        task = loaded.name
    subject = load_model(model or loaded.default_model)
    where = str(resolve_device(device))
    with progress_bar(f"validate {task}") as progress:
        progress("asking", None)
        card = health.validate_task(
            task, subject, loaded, ablation=ablation, seed=seed, device=where
        )
        text, content = health_card.render(card), card.as_dict()
        if sparse:
            progress("asking what few edges and heads do", None)
            few = sparsity.measure(task, subject, loaded, seed=seed, device=where)
            text += "\n" + sparsity.render(few)
            content["sparsity"] = few.as_dict()
        if pairs:
            known = loaded.truth(subject)
            if known is None:
                raise InvalidSpec(f"{task} names no circuit, so no pairs of true heads")
            progress("asking about pairs", None)
            oracle = Oracle(
                subject, loaded, task_name=task, seed=seed, ablation=card.ablation, device=where
            )
            rng = generator(seed, "validate-task", "pairs")
            found = redundancy.super_additivity(oracle, known, rng)
            text += "\n" + redundancy.render(found)
            content["super_additivity"] = found
    if figure is not None:
        drawn = io.BytesIO()
        health_card.figure(card).savefig(drawn, format="png", dpi=150)
        write_atomically(figure, drawn.getvalue())
    click.echo(json.dumps(content, indent=1) if as_json else text)
    if not card.passed:
        fail(f"{task} on {card.model} does not pass the gate", 1)


@click.command()
@click.argument("name")
@click.option("--kind", help="method, task, model or metric, if several have this name.")
@click.option("--model", help="Model to check a task on; default: the task's own.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A hyperparameter of a method, e.g. to train for a short time only.",
)
@click.option("--traceback", is_flag=True, help="Also show where in the code a promise broke.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(
    name: str,
    kind: str | None,
    model: str | None,
    assignments: tuple[str, ...],
    traceback: bool,
    as_json: bool,
) -> None:
    """Hold an installed method, task, model or metric against its contract, and say what to do.

    \b
    Example:
      circuitbench check acdc
      circuitbench check my-method --traceback
      circuitbench check rl-ppo --set training.total_steps=80
    """
    from circuitbench.checks.plugin import examine
    from circuitbench.cli.advice import lines
    from circuitbench.plugins.registry import method_class
    from circuitbench.runs.spec import configure, parse_assignment

    settings = dict(map(parse_assignment, assignments))
    if settings:
        configure(method_class(name), settings, name)  # a wrong one is no fault of the plug-in
    make = (lambda cls: configure(cls, settings, name)) if settings else None
    with progress_bar(f"check {name}") as progress:
        progress("checking", None)
        reports = examine(name, kind, model=model, make=make)
    if as_json:
        click.echo(json.dumps([report.as_dict() for report in reports], indent=1))
    else:
        click.echo("\n".join(line for report in reports for line in lines(report, traceback)))
    broken = sum(len(report.broken) for report in reports)
    if broken:
        fail(f"{name} breaks {broken} promise{'' if broken == 1 else 's'}", 1)


@click.command()
@click.option("--model", default="planted", show_default=True, help="Model to measure on.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--precision", default="exact", show_default=True, help="exact, fast or approx.")
@click.option("--batch-size", type=int, default=32, show_default=True, help="Prompts per batch.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(model: str, device: Any, precision: str, batch_size: int, as_json: bool) -> None:
    """Show device, precision, threads, measured speed, and what runs will cost here.

    \b
    Example:
      circuitbench doctor
      circuitbench doctor --model gpt2 --precision fast
    """
    from circuitbench.checks import doctor as examination
    from circuitbench.runs.spec import build_spec

    build_spec({"device": device, "precision": precision, "batch_size": batch_size})
    found = examination.report(device, model, precision, batch_size)
    click.echo(json.dumps(found, indent=1) if as_json else examination.render(found))
