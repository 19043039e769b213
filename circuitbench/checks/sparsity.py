"""Does a behaviour have a sparse circuit in this model at all? What decides, and what to do.

After MechRL's gate for its tasks (Khadka 2026, arXiv 2605.26343, second version): the share of the
intact model's KL divergence from the all-corrupted one that a circuit of the best edges gains
back, ``1 - KL(circuit) / KL(all corrupted)``, edges ranked by attribution. It keeps a task if the
best 3,000 of GPT-2's 32,491 edges gain back 0.85, and if KL(all corrupted) is well above 0; it
calls 3 to 5 nats healthy. Here edges and heads are corrupted by resample ablation, and ranked both
by the derivative at the intact model (Syed et al. 2023, arXiv 2310.10348) and by its mean along
five soft masks, as integrated gradients do, since either may miss what saturates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.base import Model
from circuitbench.oracle import Oracle
from circuitbench.tasks.base import Task

Verdict = Literal["healthy", "weak counterfactual", "diffuse", "model doesn't do it"]

EDGE_SIZES = (50, 100, 200, 400, 1000, 3000)
HEAD_SIZES = (5, 10, 20, 40, 80)
SHARE = 3000 / 32491  # of all edges that must do: 3,000 of GPT-2 small's (MechRL)
ENOUGH = 0.85  # of the KL divergence gained back by them (MechRL)
HEALTHY_KL = (3.0, 5.0)  # nats (MechRL)
LEAST_KL = 0.5  # nats; "well above 0" in MechRL, the number is ours
LEAST_ACCURACY = 0.5  # ours: below, the model does something else more often than not
MOST_KEPT = 0.5  # of the metric on counterfactual prompts, as the health gate's limit
SHOWN = 5  # offenders named
PROMPTS = 8
STEPS = 5

ADVICE: dict[Verdict, str] = {
    "healthy": "methods can be compared on it",
    "weak counterfactual": "change more of what the answer hangs on, until the counterfactual's "
    "answer is another one; everything that both prompts share can't be seen",
    "diffuse": "no small set of edges carries it, so no method can find one: take a narrower "
    "behaviour, or prompts with a stronger cue right before the answer",
    "model doesn't do it": "put a stronger cue before the answer, take words that the model "
    "knows, or a larger model",
}


@dataclass(frozen=True)
class Sparsity:
    """What was measured; :meth:`as_dict` is JSON-able.

    Args:
        verdict: what follows.
        accuracy: of the intact model.
        clean, counterfactual: mean metric on the prompts, and on their counterfactuals (logits).
        unchanged: the numbers of prompts whose counterfactual keeps over half of their metric.
        kl: KL(intact || all edges corrupted) at the metric's positions, nats; of heads where the
            model's edges can't be asked about.
        edges, heads: share of that gained back by the K best, by K; heads leave all else intact.
        edges_needed: the K that must gain back enough, 0 where edges can't be asked about.
        note: why something is missing.
    """

    verdict: Verdict
    accuracy: float
    clean: float
    counterfactual: float
    unchanged: tuple[int, ...]
    prompts: int
    kl: float
    edges: dict[int, float]
    heads: dict[int, float]
    edges_needed: int
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self) | {
            "unchanged": list(self.unchanged),
            "edges": {str(k): v for k, v in self.edges.items()},
            "heads": {str(k): v for k, v in self.heads.items()},
            "advice": ADVICE[self.verdict],
        }


def measure(
    task_name: str,
    model: Model,
    task: Task,
    *,
    prompts: int = PROMPTS,
    seed: int = 0,
    device: str = "cpu",
) -> Sparsity:
    """Ask a model what few edges and heads do on a task.

    Args:
        task_name: seeds the draws.
        model, task: what is asked about; no truth is needed.
        prompts: in the one batch that everything is measured on.
        seed: of the draws.
        device: where to compute.
    """
    oracle = Oracle(
        model,
        task,
        task_name=task_name,
        seed=seed,
        ablation="resample",
        batch_size=prompts,
        device=device,
    )
    batch = oracle.batch
    clean = torch.from_numpy(batch.clean(batch, "task"))
    nothing = torch.zeros(1, *oracle.shape, dtype=torch.bool)
    restored = oracle.query(nothing, direction="denoising", per_prompt=True)
    assert restored.per_prompt_task is not None
    other = clean - restored.per_prompt_task[0]
    unchanged = ((clean > 0) & (other > MOST_KEPT * clean)).nonzero()[:, 0].tolist()
    n_heads = oracle.n_layers * oracle.n_heads
    heads, kl = _gained(
        lambda masks: oracle.query(masks.view(-1, *oracle.shape), control=False, kl=True).kl,
        oracle.gradient(_path(*oracle.shape)).flatten(1),
        [k for k in HEAD_SIZES if k < n_heads],
    )
    edges: dict[int, float] = {}
    needed, note = 0, ""
    try:
        n_edges = len(oracle.edges.edges)
    except InvalidSpec as error:
        note = f"edges: {error}"
    else:
        needed = max(1, round(SHARE * n_edges))
        sizes = sorted({*(k for k in EDGE_SIZES if k < needed), needed})
        edges, kl = _gained(
            lambda masks: oracle.edges.query(masks, kl=True).kl,
            oracle.edges.gradient(_path(n_edges)),
            sizes,
        )
    accuracy, mean, kept = batch.accuracy, float(clean.mean()), float(other.mean())
    verdict: Verdict = "healthy"
    if accuracy < LEAST_ACCURACY or mean <= 0:
        verdict = "model doesn't do it"
    elif kl < LEAST_KL or kept > MOST_KEPT * mean:
        verdict = "weak counterfactual"
    elif max((edges or heads).values()) < ENOUGH:
        verdict = "diffuse"
    return Sparsity(
        verdict, accuracy, mean, kept, tuple(unchanged), prompts, kl, edges, heads, needed, note
    )


def _path(*shape: int) -> Tensor:
    """Soft masks from a fifth of everything to the intact model, ``[STEPS, *shape]``."""
    shares = torch.arange(1, STEPS + 1) / STEPS
    return shares.view(-1, *[1] * len(shape)).expand(STEPS, *shape)


def _gained(
    divergences: Callable[[Tensor], Tensor | None], gradients: Tensor, sizes: list[int]
) -> tuple[dict[int, float], float]:
    """Share of the divergence gained back by the K best, and the divergence without any.

    ``gradients [steps, n]``; of the two rankings the one that gains more back, for each K.
    """
    masks = torch.zeros(1 + 2 * len(sizes), gradients.shape[1], dtype=torch.bool)
    for half, importance in enumerate((gradients[-1].abs(), gradients.mean(0).abs())):
        order = importance.argsort(descending=True, stable=True)
        for i, size in enumerate(sizes):
            masks[1 + half * len(sizes) + i, order[:size]] = True
    found = divergences(masks)
    assert found is not None
    nothing, *rest = found.double().tolist()
    least = [min(pair) for pair in zip(rest[: len(sizes)], rest[len(sizes) :], strict=True)]
    shares = [1 - x / nothing if nothing > 0 else 0.0 for x in least]
    return dict(zip(sizes, shares, strict=True)), nothing


def render(found: Sparsity) -> str:
    """The findings as markdown, with the limits they are held against."""
    low, high = HEALTHY_KL
    lines = [
        f"### Sparse circuit: {found.verdict}",
        "",
        f"{ADVICE[found.verdict][0].upper()}{ADVICE[found.verdict][1:]}.",
        "",
        "| measured | value | limit |",
        "|---|---:|---|",
        f"| accuracy | {found.accuracy:.2f} | >= {LEAST_ACCURACY:g} (ours) |",
        f"| metric on the counterfactual | {found.counterfactual:.2f} of {found.clean:.2f} "
        f"| <= {MOST_KEPT:g} of the clean one (ours) |",
        f"| KL(intact, all corrupted), nats | {found.kl:.2f} | >= {LEAST_KL:g} (ours; MechRL: "
        f"well above 0, healthy {low:g} to {high:g}) |",
    ]
    for what, shares in (("edges", found.edges), ("heads", found.heads)):
        for k, share in shares.items():
            held = k == found.edges_needed and what == "edges"
            limit = f">= {ENOUGH:g} (MechRL, for 3,000 of 32,491 edges)" if held else ""
            lines.append(f"| KL gained back by the best {k:,} {what} | {share:.3f} | {limit} |")
    if found.unchanged:
        some = ", ".join(str(i + 1) for i in found.unchanged[:SHOWN])
        more = "" if len(found.unchanged) <= SHOWN else " and more"
        lines += [
            "",
            f"The counterfactual keeps over half of the metric in {len(found.unchanged)} of "
            f"{found.prompts} prompts: {some}{more}.",
        ]
    if found.note:
        lines += ["", found.note]
    return "\n".join(lines) + "\n"
