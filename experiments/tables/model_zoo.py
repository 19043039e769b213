"""The tables of docs/compiled-and-trained.md and docs/trained.md; ``--write docs`` fills them in.

Every figure is measured here, or read from the report that
``python -m circuitbench.models.trained.training NAME`` wrote beside a model's weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuitbench import Oracle, load_model, load_task
from circuitbench.models.compiled.programs import EXAMPLES
from circuitbench.models.forward import forward
from circuitbench.models.trained.load import ALGORITHMS, INDUCTION, training_seeds
from circuitbench.models.trained.puzzles import PUZZLES

PROMPTS = 256
SUBSETS = 100


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def compiled() -> str:
    """What each compiled model is, how exact, and what its heads and the others do."""
    rows = []
    for name in EXAMPLES:
        model, task = load_model(f"compiled-{name}"), load_task(name)
        weights = model.construction.compiled.transformer
        prompts = task.prompts(model, PROMPTS, np.random.default_rng(0))
        logits, _, _ = forward(weights, prompts.tokens)
        read = logits[torch.arange(PROMPTS)[:, None], prompts.positions]
        wanted = 10.0 * (prompts.weights > 0)
        error = (read.gather(-1, prompts.token_ids) - wanted).abs().max()
        oracle = Oracle(model, task, task_name=name, seed=0, batch_size=PROMPTS)
        inside = torch.zeros(oracle.shape, dtype=torch.bool)
        truth = task.truth(model)
        assert truth is not None
        for layer, head in truth.heads:
            inside[layer, head] = True
        weakest, strongest = [], 0.0
        subsets = torch.from_numpy(np.random.default_rng(1).random((SUBSETS, *oracle.shape)) < 0.5)
        for ablation in truth.ablations:
            alone = oracle.query(oracle.head_masks(), ablation=ablation, control=False).task
            weakest.append(float(alone.view(oracle.shape)[inside].min()))
            pair = (
                oracle.query(masks, ablation=ablation, control=False).task
                for masks in (subsets, subsets | ~inside)
            )
            strongest = max(strongest, float((next(pair) - next(pair)).abs().max()))
        config = weights.config
        rows.append(
            [
                name,
                f"{config.n_layers} x {config.n_heads}",
                config.d_model,
                config.d_mlp,
                f"{oracle.batch.accuracy:.3f}",
                f"{error:.1e}",
                ", ".join(f"{name} {role.heads[0]}" for name, role in truth.roles.items()),
                " / ".join(f"{x:.1f}" for x in weakest),
                f"{strongest:.1e}",
                f"{oracle.clean_control:.2f} / {np.log(config.d_vocab):.2f}",
            ]
        )
    columns = [
        "program",
        "grid",
        "d_model",
        "d_mlp",
        "accuracy",
        "worst logit error (of 10)",
        "truth",
        "weakest truth head alone: zero / mean / resample",
        "others, any subset",
        "control loss / uniform",
    ]
    return table(columns, rows)


def siit() -> str:
    """Interchange accuracy and strictness, from the reports."""
    rows = []
    for name in ALGORITHMS:
        report = load_model(name).construction.report

        def worst(key: str, report: dict[str, Any] = report) -> str:
            return " / ".join(f"{max(map(abs, report[key][a].values())):.4f}" for a in report[key])

        rows.append(
            [
                name,
                ", ".join(f"{node} {role['heads'][0]}" for node, role in report["roles"].items()),
                f"{report['accuracy']:.3f}",
                ", ".join(f"{k} {v:.3f}" for k, v in report["interchange_accuracy"].items()),
                f"{report['strict_answers_changed']:.4f}",
                worst("strict_effect_alone"),
                worst("strict_effect_in_context"),
                f"{report['text_loss']:.2f} / {report['text_loss_uniform']:.2f}",
                f"{report['training']['cpu_seconds']} s",
            ]
        )
    columns = [
        "model",
        "truth",
        "accuracy",
        "interchange accuracy",
        "answers changed by outside heads",
        "worst outside head alone: zero / mean / resample",
        "the same in random contexts",
        "text loss / uniform",
        "training, CPU",
    ]
    return table(columns, rows)


def strictness() -> str:
    """The strict loss of every head outside each SIIT circuit."""
    rows = []
    for name in ALGORITHMS:
        report = load_model(name).construction.report
        for head in report["strict_effect_alone"]["zero"]:
            rows.append(
                [
                    name,
                    head,
                    *(f"{report['strict_effect_alone'][a][head]:.4f}" for a in report["ablations"]),
                    *(
                        f"{report['strict_effect_in_context'][a][head]:.4f}"
                        for a in report["ablations"]
                    ),
                    f"{report['text_damage_zero'][head]:.3f}",
                ]
            )
    kinds = ["zero", "mean", "resample"]
    columns = [
        "model",
        "head",
        *(f"alone, {k}" for k in kinds),
        *(f"in context, {k}" for k in kinds),
        "text loss, zero",
    ]
    return table(columns, rows)


def trained_induction() -> str:
    """Scores and exhaustive effects of every head, and the sets found."""
    report = load_model(INDUCTION).construction.report
    role_of = {h: name for name, role in report["roles"].items() for h in role["heads"]}
    rows = [
        [
            head,
            role_of.get(head, ""),
            f"{report['previous_token_score'][head]:.2f}",
            f"{report['prefix_matching_score'][head]:.2f}",
            *(
                f"{report['effects'][a][head]['mean']:.3f} "
                f"({report['effects'][a][head]['least']:.2f} to "
                f"{report['effects'][a][head]['greatest']:.2f})"
                for a in report["effects"]
            ),
            f"{report['text_damage_zero'][head]:.3f}",
        ]
        for head in report["previous_token_score"]
    ]
    columns = ["head", "role", "previous token", "prefix matching"]
    columns += [f"effect, {a}: mean (least to greatest)" for a in report["effects"]]
    sets = [
        [ablation, tolerance, found["size"], found["number_of_that_size"], " ".join(found["heads"])]
        for ablation, by_tolerance in report["search"].items()
        for tolerance, found in by_tolerance.items()
    ]
    return (
        table([*columns, "text loss, zero"], rows)
        + "\n"
        + table(["ablation", "tolerance", "smallest size", "sets", "the best"], sets)
    )


def puzzles() -> str:
    """What the search of all subsets found in each freely trained model."""
    rows = []
    for name in (f"{puzzle}@{seed}" for puzzle in PUZZLES for seed in training_seeds(puzzle)):
        model = load_model(name)
        report, truth = model.construction.report, model.construction.truth()
        searched = report["searched"]
        found = searched["all"]
        rows.append(
            [
                name,
                f"{report['accuracy']:.3f}",
                f"{found['sufficient']:,}",
                found["minimal"],
                f"{found['smallest']} to {found['largest']}",
                " ".join(map(str, sorted(truth.core))) or "none: not identifiable",
                len(truth.optional),
                " / ".join(str(searched[a]["minimal"]) for a in report["ablations"]),
                f"{report['text_loss']:.2f} / {report['uniform_loss']:.2f}",
                f"{report['training']['cpu_seconds']} + {report['search_cpu_seconds']} s",
            ]
        )
    columns = [
        "model",
        "accuracy",
        "sufficient sets of 262,144",
        "minimal ones",
        "their sizes",
        "core: in every one",
        "optional heads",
        "minimal under zero / mean / resample alone",
        "text loss / uniform",
        "training + search, CPU",
    ]
    return table(columns, rows)


PAGES = dict.fromkeys((compiled, siit, strictness, trained_induction), "compiled-and-trained.md")
PAGES |= {puzzles: "trained.md"}


def write(path: Path, name: str, made: str) -> None:
    """Put a table between ``<!-- name -->`` and ``<!-- end -->`` of a Markdown file."""
    start, end = f"<!-- {name} -->", "<!-- end -->"
    before, after = path.read_text().split(start)
    path.write_text(before + f"{start}\n{made}" + after[after.index(end) :])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[part.__name__ for part in PAGES], help="one table")
    parser.add_argument("--write", type=Path, help="the folder of the pages to put them into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for part, page in PAGES.items():
        if arguments.only in (None, part.__name__):
            made = part()
            print(f"### {part.__name__}\n\n{made}")
            if arguments.write:
                write(arguments.write / page, part.__name__, made)
