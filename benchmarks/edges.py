"""How fast are edge questions? transformer_lens hooks and ours, in one process.

    python benchmarks/edges.py --threads 1 --clock cpu
    python benchmarks/edges.py --workloads patching --receivers-every 16 --batch 8 --pos 24
    python benchmarks/edges.py --memory            # peak memory, without the reference

Two workloads on a 12 x 12 model with MLPs and random weights (speed does not depend on their
values): patching every edge alone, and ACDC over edges. The reference does what one would write
with hooks: one forward pass per mask, full logits. For a single edge, a hook adds the sender's
difference, known from two cached passes, to what the receiver reads; where that is a head's query,
key or value, it is computed anew for this head alone. For ACDC hooks note what every sender
writes, and every receiver with ablated edges adds up the differences of its senders in one
product. It is timed on a sample of the masks that ours are asked and scaled to all of them (to
those that ACDC needs; ours pays for what it asks ahead too).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from oracle import RandomText, random_transformer, render
from torch import Tensor

from circuitbench.checks.doctor import matmul_peak
from circuitbench.models.base import Model
from circuitbench.models.pretrained import to_transformer_lens
from circuitbench.oracle import Oracle
from circuitbench.oracle.process_memory import peak_bytes, start_afresh
from circuitbench_baselines.acdc import ACDCEdges


class Hooks:
    """Edges ablated by hooks, plainly: each sender's replacement is its counterfactual output."""

    def __init__(self, oracle: Oracle, device: str) -> None:
        transformer = oracle._model.transformer
        assert transformer is not None
        self.graph, self.prompts = oracle.edges.graph, oracle.batch.source.prompts.to(device)
        self.n_heads = transformer.config.n_heads
        self.W_O = [w.W_O.to(device) for w in transformer.layers]
        self.eps = transformer.config.norm_eps
        self.project = {
            (layer, letter): weight.to(device)
            for layer, w in enumerate(transformer.layers)
            for letter, weight in (("q", w.W_Q), ("k", w.W_K), ("v", w.W_V))
        }
        with contextlib.redirect_stdout(sys.stderr):  # it announces the move
            self.bridge = to_transformer_lens(transformer).to(device)
        self.place = {name: i for i, name in enumerate(self.graph.senders)}
        self.replaced = self._outputs(self.prompts.counterfactual)
        self.difference = self.replaced - self._outputs(self.prompts.tokens)
        self.log_p = self._read(self.bridge(self.prompts.tokens)).log_softmax(-1)

    def _outputs(self, tokens: Tensor) -> Tensor:
        """``[senders, batch, pos, d_model]`` of the intact model."""
        found: dict[int, Tensor] = {}
        self.bridge.run_with_hooks(tokens, fwd_hooks=self._senders(found))
        return torch.stack([found[i] for i in range(len(found))])

    def _senders(self, found: dict[int, Tensor]) -> list[tuple[str, Callable[..., None]]]:
        """Hooks that note what each sender writes."""

        def embed(x: Tensor, hook: object) -> None:
            found[0] = x.clone()

        def positions(x: Tensor, hook: object) -> None:
            found[0] = found[0] + x

        def heads(z: Tensor, hook: object, layer: int) -> None:
            for head in range(self.n_heads):
                found[self.place[f"{layer}.{head}"]] = z[:, :, head] @ self.W_O[layer][head]

        def mlp(x: Tensor, hook: object, layer: int) -> None:
            found[self.place[f"m{layer}"]] = x.clone()

        hooks: list[tuple[str, Callable[..., None]]] = [
            ("hook_embed", embed),
            ("hook_pos_embed", positions),
        ]
        for layer in range(len(self.W_O)):
            hooks.append((f"blocks.{layer}.attn.hook_z", partial(heads, layer=layer)))
            hooks.append((f"blocks.{layer}.hook_mlp_out", partial(mlp, layer=layer)))
        return hooks

    def _input(self, receiver: str) -> tuple[str, int | None]:
        """Where a receiver is hooked, and its head."""
        if receiver == "logits":
            return "ln_final.hook_in", None
        if receiver.startswith("m"):
            return f"blocks.{receiver[1:]}.ln2.hook_in", None
        layer, head, letter = receiver.split(".")
        return f"blocks.{layer}.attn.hook_{letter}", int(head)

    def _changed(
        self, name: str, heads: list[int | None], change: Callable[[], Tensor]
    ) -> list[Any]:
        """Hooks that add ``change() [n, batch, pos, d_model]`` to what heads at a hook read."""
        if heads[0] is None:
            return [(name, lambda x, hook: x + change()[0])]
        layer, letter = int(name.split(".")[1]), name[-1]
        stream: list[Tensor] = []

        def project(x: Tensor, hook: object) -> Tensor:
            x = x.clone()
            heard = torch.nn.functional.layer_norm(
                stream.pop() + change(), self.difference.shape[-1:], eps=self.eps
            )
            x[:, :, heads] = torch.einsum(
                "nbpd,ndk->bpnk", heard, self.project[layer, letter][heads]
            )
            return x

        def note(x: Tensor, hook: object) -> None:
            stream.append(x)

        return [(f"blocks.{layer}.hook_resid_pre", note), (name, project)]

    def _read(self, logits: Tensor) -> Tensor:
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        return logits[rows, self.prompts.positions]

    def _lacking(
        self,
        name: str,
        heads: list[int | None],
        senders: list[int],
        weights: Tensor,
        found: dict[int, Tensor],
    ) -> list[Any]:
        """Hooks of receivers that do without senders; ``weights [heads, senders]``."""

        def change() -> Tensor:
            lost = self.replaced[senders] - torch.stack([found[s] for s in senders])
            return torch.einsum("hs,sbpd->hbpd", weights, lost)

        return self._changed(name, heads, change)

    def one(self, edge: int) -> float:
        """The metric with one edge ablated."""
        receiver, sender = self.graph.pairs[edge]
        name, head = self._input(self.graph.receivers[receiver])

        hooks = self._changed(name, [head], lambda: self.difference[sender][None])
        logits = self.bridge.run_with_hooks(self.prompts.tokens, fwd_hooks=hooks)
        return float(self.prompts.metric(logits).mean())

    def kl(self, mask: Tensor) -> float:
        """KL(clean || ablated) under an edge mask ``[n_edges]``."""
        found: dict[int, Tensor] = {}
        lacks: dict[str, list[tuple[int | None, int]]] = {}
        for edge in (~mask).nonzero()[:, 0].tolist():
            receiver, sender = self.graph.pairs[edge]
            name, head = self._input(self.graph.receivers[receiver])
            lacks.setdefault(name, []).append((head, sender))

        hooks = self._senders(found)
        for name, lacking in lacks.items():
            heads = sorted({head for head, _ in lacking}, key=lambda head: head or 0)
            senders = sorted({sender for _, sender in lacking})
            weights = self.difference.new_zeros(len(heads), len(senders))
            for head, sender in lacking:
                weights[heads.index(head), senders.index(sender)] = 1
            hooks += self._lacking(name, heads, senders, weights, found)
        logits = self.bridge.run_with_hooks(self.prompts.tokens, fwd_hooks=hooks)
        log_q = self._read(logits).log_softmax(-1)
        return float((self.log_p.exp() * (self.log_p - log_q)).sum(-1).mean())


@dataclass
class Row:
    """One workload's result; seconds are of the whole workload."""

    workload: str
    questions: int
    reference_s: float
    ours_s: float
    ratio: float
    edges_per_s: float
    gflops: float
    share_of_peak: float
    worst_error: float
    note: str


class Bench:
    """Runs workloads; ``clock`` is wall time or this process's CPU time."""

    def __init__(self, args: argparse.Namespace, clock: Callable[[], float]) -> None:
        self.args, self.clock = args, clock
        t = random_transformer(args.layers, args.heads, args.d_model, args.vocab)
        self.model = Model("random", args.layers, args.heads, t)
        self.rng = np.random.default_rng(0)

    def oracle(self) -> Oracle:
        """A new one, on the same prompts."""
        return Oracle(
            self.model,
            RandomText(self.args.pos),
            task_name="random",
            seed=1,
            batch_size=self.args.batch,
            device=self.args.device,
        )

    def timed(self, work: Callable[..., Any], *args: Any) -> tuple[float, Any]:
        """Seconds, and the result."""
        if self.args.device != "cpu":
            torch.cuda.synchronize()
        start = self.clock()
        out = work(*args)
        if self.args.device != "cpu":
            torch.cuda.synchronize()
        return self.clock() - start, out

    def patching(self, hooks: Hooks | None, peak: float) -> Row:
        """Every edge alone (with ``--receivers-every`` those into some receivers, scaled)."""
        oracle = self.oracle()
        pairs, clean = np.array(oracle.edges.graph.pairs), oracle.clean_metric
        n, start = len(pairs), self.args.receivers_every // 2
        edges = np.flatnonzero(pairs[:, 0] % self.args.receivers_every == start)

        def ask() -> Tensor:
            found = []
            for some in np.array_split(edges, -(-len(edges) // 1000)):
                masks = torch.ones(len(some), n, dtype=torch.bool)
                masks[torch.arange(len(some)), torch.from_numpy(some)] = False
                found.append(oracle.edges.query(masks, ablation="resample").task)
            return torch.cat(found)

        ours, effects = self.timed(ask)
        seconds, worst = [], 0.0
        sample = self.rng.choice(len(edges), min(self.args.sample, len(edges)), replace=False)
        for i in sample:
            if hooks is None:
                break
            took, metric = self.timed(hooks.one, int(edges[i]))
            seconds.append(took)
            worst = max(worst, abs(clean - metric - float(effects[i])))
        row = self.row("exact patching", len(edges), len(edges), seconds, ours, oracle, worst, peak)
        row.note += f"; {len(edges)} of {n} edges"
        return row

    def acdc(self, hooks: Hooks | None, peak: float) -> Row:
        """The whole graph at one threshold."""
        oracle = self.oracle()
        asked: list[tuple[np.ndarray, float]] = []
        query = oracle.edges.query

        def noted(masks: Tensor, **options: Any) -> Any:
            damages = query(masks, **options)
            assert damages.kl is not None  # ACDC asks for it
            asked.append((np.packbits(masks[0].numpy()), float(damages.kl[0])))
            return damages

        method = ACDCEdges(threshold=self.args.threshold)
        oracle.edges.query = noted  # type: ignore[method-assign]
        ours, found = self.timed(method.discover, oracle, self.rng)
        needed = oracle.meter.queries - found.info["thrown_away"]
        seconds, worst = [], 0.0
        sample = self.rng.choice(len(asked), min(self.args.sample, len(asked)), replace=False)
        for i in sample:
            if hooks is None:
                break
            packed, kl = asked[i]
            mask = np.unpackbits(packed, count=len(oracle.edges.edges)).astype(bool)
            took, want = self.timed(hooks.kl, torch.from_numpy(mask))
            seconds.append(took)
            worst = max(worst, abs(want - kl))
        (kept,) = found.info["edges_kept"].values()
        row = self.row("ACDC", needed, len(oracle.edges.edges), seconds, ours, oracle, worst, peak)
        row.note += f"; {kept} edges kept, {found.info['thrown_away']} questions thrown away"
        return row

    def row(
        self,
        name: str,
        questions: int,
        edges: int,
        sample: list[float],
        ours: float,
        oracle: Oracle,
        worst: float,
        peak: float,
    ) -> Row:
        """Both scaled to the whole workload."""
        theirs = float(np.mean(sample)) * questions if sample else float("nan")
        rate = oracle.meter.flops / ours
        return Row(
            name,
            questions,
            theirs,
            ours,
            theirs / ours,
            edges / ours,
            rate / 1e9,
            rate / peak,
            worst,
            f"reference on {len(sample)} of {questions} masks, scaled",
        )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, value in (("layers", 12), ("heads", 12), ("d-model", 192), ("vocab", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("batch", 4), ("pos", 16), ("sample", 20), ("receivers-every", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threshold", type=float, default=1e-3, help="of ACDC, nats")
    parser.add_argument("--workloads", default="patching,acdc")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--memory", action="store_true", help="ours alone, and its peak memory")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    bench = Bench(args, time.perf_counter if args.clock == "wall" else time.process_time)
    peak = matmul_peak(args.device, clock=bench.clock)
    hooks = None if args.memory else Hooks(bench.oracle(), args.device)
    rows: list[dict[str, object]] = []
    for name in args.workloads.split(","):
        start_afresh()
        row = asdict(getattr(bench, name)(hooks, peak))
        rows.append({**row, "peak_memory_gib": peak_bytes() / 2**30})
    if args.json:
        print(json.dumps({"peak_gflops": peak / 1e9, **vars(args), "rows": rows}, indent=1))
    else:
        print(f"measured float32 matmul peak: {peak / 1e9:.0f} GFLOP/s ({args.clock} time)")
        print(render(rows))


if __name__ == "__main__":
    main()
