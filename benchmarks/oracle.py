# ruff: noqa: D102
"""How fast is the oracle? The same questions to transformer_lens hooks and to us, in one process.

    python benchmarks/oracle.py                      # GPT-2 small's shape, a sample of the work
    python benchmarks/oracle.py --heads-per-layer 12 --masks 64   # all of it (hours on a CPU)
    python benchmarks/oracle.py --scaling            # how time grows with layers, heads, ...
    python benchmarks/oracle.py --memory             # peak memory without the reference
    python benchmarks/oracle.py --device cuda --heads-per-layer 12 --masks 64 [--together]

Weights are random (speed does not depend on their values). The reference runs every mask with
``run_with_hooks`` on both batches and takes full logits. Reference and ours take turns, or with
``--together`` ours are asked all masks of a sweep, or of the random ones, in one call. What is
sampled is scaled up to the whole workload and marked so. On a GPU every workload runs twice, and
the second time counts: the first loads kernels.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from circuitbench.checks.doctor import matmul_peak
from circuitbench.core.circuit import Circuit
from circuitbench.models.base import Model
from circuitbench.models.pretrained import to_transformer_lens
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.oracle import Oracle, query_together
from circuitbench.oracle.process_memory import peak_bytes, start_afresh
from circuitbench.tasks.base import Prompts

POS = 60
T = TypeVar("T")
P = ParamSpec("P")


def random_transformer(
    n_layers: int, n_heads: int, d_model: int, d_vocab: int, seed: int = 0
) -> Transformer:
    """GPT-2's architecture with random weights."""
    d_head, d_mlp = d_model // n_heads, 4 * d_model
    rng = torch.Generator().manual_seed(seed)

    def draw(*size: int, scale: float = d_model**-0.5) -> Tensor:
        return torch.randn(size, generator=rng) * scale

    deep = (2 * n_layers * d_model) ** -0.5
    layers = tuple(
        LayerWeights(
            W_Q=draw(n_heads, d_model, d_head),
            W_K=draw(n_heads, d_model, d_head),
            W_V=draw(n_heads, d_model, d_head),
            W_O=draw(n_heads, d_head, d_model, scale=deep),
            b_O=draw(d_model),
            W_in=draw(d_model, d_mlp),
            b_in=draw(d_mlp),
            W_out=draw(d_mlp, d_model, scale=deep / 2),
            b_out=draw(d_model),
        )
        for _ in range(n_layers)
    )
    config = TransformerConfig(
        n_layers, n_heads, d_model, d_head, d_vocab, 64, d_head**-0.5, d_mlp, normalization="layer"
    )
    W_E, W_U = draw(d_vocab, d_model, scale=1.0), draw(d_model, d_vocab, scale=2 * d_model**-0.5)
    return Transformer(config, W_E, W_U, layers, W_pos=draw(64, d_model, scale=0.3))


class RandomText:
    """Prompts and control text of Zipf-distributed tokens; the metric is a logit difference."""

    default_model = "random"

    def __init__(self, pos: int = POS) -> None:
        self.pos = pos

    def _tokens(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        assert model.transformer is not None
        weights = 1 / np.arange(1, model.transformer.config.d_vocab + 1)
        return torch.from_numpy(rng.choice(len(weights), (n, self.pos), p=weights / weights.sum()))

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        tokens, other = self._tokens(model, n, rng), self._tokens(model, n, rng)
        return Prompts(
            tokens=tokens,
            counterfactual=other,
            positions=torch.full((n, 1), self.pos - 1),
            token_ids=self._tokens(model, n, rng)[:, None, :2],
            weights=torch.tensor([1.0, -1.0]).expand(n, 1, 2),
            choices=torch.arange(10),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        return self._tokens(model, n, rng)

    def truth(self, model: Model) -> Circuit:
        return Circuit({}, "none", "constructed")


class Reference:
    """transformer_lens hooks, the task batch and the control batch one after the other."""

    def __init__(self, transformer: Transformer, device: str) -> None:
        with contextlib.redirect_stdout(sys.stderr):  # it announces the move
            self.bridge = to_transformer_lens(transformer).to(device)
        self.device = device

    def _logits(self, tokens: Tensor, gates: Tensor) -> Tensor:
        hooks = []
        for layer, gate in enumerate(gates):
            if gate.requires_grad or not bool(gate.all()):
                hooks.append((f"blocks.{layer}.attn.hook_z", self._hook(gate)))
        logits: Tensor = self.bridge.run_with_hooks(tokens.to(self.device), fwd_hooks=hooks)
        return logits

    @staticmethod
    def _hook(gate: Tensor) -> Callable[..., Tensor]:
        if gate.requires_grad:
            return lambda z, hook: z * gate[:, None]
        off = (gate == 0).nonzero()[:, 0]

        def zero(z: Tensor, hook: object) -> Tensor:
            z[:, :, off] = 0
            return z

        return zero

    def values(self, batch: object, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Metric and control loss."""
        prompts, control = batch.source.prompts, batch.source.control  # type: ignore[attr-defined]
        gates = gates.to(self.device)
        metric = prompts.to(self.device).metric(self._logits(prompts.tokens, gates)).mean()
        logits = self._logits(control, gates)[:, :-1].flatten(0, 1)
        target = control[:, 1:].flatten().to(self.device)
        return metric, torch.nn.functional.cross_entropy(logits, target)

    @torch.no_grad()
    def reward(self, batch: object, gates: Tensor, clean: tuple[float, float]) -> float:
        metric, loss = self.values(batch, gates)
        return (clean[0] - float(metric)) - (float(loss) - clean[1])

    def gradient(self, batch: object, n_layers: int, n_heads: int) -> Tensor:
        """Of the metric, by all mask entries."""
        gates = torch.ones(n_layers, n_heads, device=self.device, requires_grad=True)
        prompts = batch.source.prompts  # type: ignore[attr-defined]
        metric = prompts.to(self.device).metric(self._logits(prompts.tokens, gates)).mean()
        return torch.autograd.grad(metric, gates)[0].cpu()


@dataclass
class Row:
    """One workload's result; seconds are of the whole workload."""

    workload: str
    reference_s: float
    ours_s: float
    ratio: float
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
        self.reference = Reference(t, args.device)
        self.rng = np.random.default_rng(0)

    def oracle(self, seed: int) -> Oracle:
        args = self.args
        return Oracle(
            self.model,
            RandomText(),
            task_name="random",
            seed=seed,
            batch_size=args.batch,
            device=args.device,
            precision=args.precision,
        )

    def timed(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> tuple[float, T]:
        if self.args.device != "cpu":
            torch.cuda.synchronize()
        start = self.clock()
        out = work(*args, **options)
        if self.args.device != "cpu":
            torch.cuda.synchronize()
        return self.clock() - start, out

    def sampled_reference(self, n: int) -> str:
        every = self.args.reference_every
        return "" if every == 1 else f"; reference on {-(-n // every)} of them"

    def clean(self, oracle: Oracle) -> tuple[tuple[float, float], float, float]:
        """Reference's clean values, its time for them, and our time for ours."""
        whole = torch.ones(oracle.shape)
        with torch.no_grad():
            theirs, values = self.timed(lambda: self.reference.values(oracle.batch, whole))
        ours, _ = self.timed(lambda: (oracle.clean_metric, oracle.clean_control))
        return (float(values[0]), float(values[1])), theirs, ours

    def each(
        self, oracle: Oracle, masks: Tensor, clean: tuple[float, float]
    ) -> tuple[float, float, float, float]:
        """Seconds of reference and ours for all masks, worst error, our FLOPs.

        They take turns. The reference does the same work for every mask, so only every
        ``--reference-every``-th of its times is taken.
        """
        theirs, ours, worst, flops = [], [], 0.0, oracle.engine.flops
        if self.args.together:
            ours.append(self.timed(oracle.query, masks)[0])
        for i in range(len(masks)):
            seconds, got = self.timed(oracle.query, masks[i : i + 1])
            if not self.args.together:
                ours.append(seconds)
            if i % self.args.reference_every == 0:
                seconds, want = self.timed(
                    self.reference.reward, oracle.batch, masks[i].float(), clean
                )
                theirs.append(seconds)
                worst = max(worst, abs(want - float(got.reward)))
        flops = oracle.engine.flops - flops
        return float(np.mean(theirs)) * len(masks), sum(ours), worst, flops

    def row(
        self,
        name: str,
        theirs: float,
        ours: float,
        flops: float,
        flop_seconds: float,
        worst: float,
        note: str,
        peak: float,
    ) -> Row:
        rate = flops / flop_seconds
        return Row(name, theirs, ours, theirs / ours, rate / 1e9, rate / peak, worst, note)

    def measure(self, name: str, peak: float) -> Row:
        """A workload by its name."""
        workload: Callable[[float], Row] = getattr(self, name)
        if self.args.device != "cpu":
            workload(peak)
        return workload(peak)

    def sweep(self, peak: float) -> Row:
        args, oracle = self.args, self.oracle(1)
        clean, clean_theirs, clean_ours = self.clean(oracle)
        heads = [
            int(layer * args.heads + head)
            for layer in range(args.layers)
            for head in self.rng.choice(args.heads, args.heads_per_layer, replace=False)
        ]
        theirs, ours, worst, flops = self.each(oracle, oracle.head_masks()[heads], clean)
        scale = args.heads / args.heads_per_layer
        return self.row(
            "sweep",
            theirs * scale + clean_theirs,
            ours * scale + clean_ours,
            flops,
            ours,
            worst,
            f"{len(heads)} of {args.layers * args.heads} heads timed, scaled x{scale:g}"
            + self.sampled_reference(len(heads)),
            peak,
        )

    def masks(self, peak: float) -> Row:
        args, oracle = self.args, self.oracle(2)
        clean, clean_theirs, clean_ours = self.clean(oracle)
        off = np.linspace(0.1, 0.5, args.masks)[:, None, None]
        masks = torch.from_numpy(self.rng.random((args.masks, *oracle.shape)) > off)
        theirs, ours, worst, flops = self.each(oracle, masks, clean)
        scale = 64 / args.masks
        return self.row(
            "masks",
            theirs * scale + clean_theirs,
            ours * scale + clean_ours,
            flops,
            ours,
            worst,
            f"{args.masks} of 64 masks timed, scaled x{scale:g}"
            + self.sampled_reference(args.masks),
            peak,
        )

    def episodes(self, peak: float) -> Row:
        """Environments remove one more head per step in random order, each on its own batch."""
        args, oracle = self.args, self.oracle(3)
        batches = [oracle.draw(seed) for seed in range(args.envs)]
        total_theirs = total_ours = worst = 0.0
        cleans = []
        for batch in batches:
            oracle.batch = batch
            clean, theirs, ours = self.clean(oracle)
            cleans.append(clean)
            total_theirs += theirs
            total_ours += ours
        orders = [self.rng.permutation(args.layers * args.heads) for _ in batches]
        masks = torch.ones(args.envs, *oracle.shape, dtype=torch.bool)
        flops, flop_seconds = oracle.engine.flops, 0.0
        for step in range(args.steps):
            for mask, order in zip(masks, orders, strict=True):
                mask.view(-1)[order[step]] = False
            seconds, want = self.timed(
                lambda: self.reference.reward(batches[-1], masks[-1].float(), cleans[-1])
            )
            total_theirs += seconds * args.envs
            seconds, got = self.timed(
                lambda: query_together(
                    [(oracle, m, b) for m, b in zip(masks, batches, strict=True)]
                )
            )
            total_ours += seconds
            flop_seconds += seconds
            worst = max(worst, abs(float(got[-1].reward) - want))
        return self.row(
            "episodes",
            total_theirs,
            total_ours,
            oracle.engine.flops - flops,
            flop_seconds,
            worst,
            f"{args.envs} environments x {args.steps} steps with their clean passes; "
            "reference on one environment per step, scaled",
            peak,
        )

    def gradient(self, peak: float) -> Row:
        args, oracle = self.args, self.oracle(4)
        whole = torch.ones(1, *oracle.shape)
        theirs, want = self.timed(
            lambda: self.reference.gradient(oracle.batch, args.layers, args.heads)
        )
        flops = oracle.engine.flops
        ours, got = self.timed(lambda: oracle.gradient(whole)[0])
        return self.row(
            "gradient",
            theirs,
            ours,
            oracle.engine.flops - flops,
            ours,
            float((want - got).abs().max()),
            "task metric by all mask entries; reference has parameters frozen",
            peak,
        )


def scaling(args: argparse.Namespace, clock: Callable[[], float]) -> list[dict[str, object]]:
    """Our seconds per mask as one thing at a time grows."""
    base = dict(layers=6, heads=6, d_model=192, batch=8, masks=16)
    grown = [
        base,
        *({**base, "layers": n} for n in (12, 24)),
        *({**base, "heads": n, "d_model": 32 * n} for n in (12, 24)),
        *({**base, "batch": n} for n in (16, 32)),
        *({**base, "masks": n} for n in (36, 144)),
        dict(layers=36, heads=20, d_model=160, batch=8, masks=90),
        dict(layers=48, heads=25, d_model=100, batch=8, masks=150),
    ]
    rows: list[dict[str, object]] = []
    for setting in grown:
        start_afresh()
        n_layers, n_heads = setting["layers"], setting["heads"]
        t = random_transformer(n_layers, n_heads, setting["d_model"], 1000)
        oracle = Oracle(
            Model("random", n_layers, n_heads, t),
            RandomText(),
            task_name="random",
            seed=0,
            batch_size=setting["batch"],
            device=args.device,
        )
        masks = oracle.head_masks()
        while len(masks) < setting["masks"]:
            masks = torch.cat([masks, masks & masks.roll(len(masks) // 3 + 1, 0)])
        step = len(masks) / setting["masks"]
        masks = masks[(torch.arange(setting["masks"]) * step).long()]
        _ = oracle.clean_metric, oracle.clean_control
        start = clock()
        oracle.query(masks)
        seconds = clock() - start
        rows.append(
            dict[str, object](setting)
            | {"seconds": seconds, "ms_per_mask": 1000 * seconds / len(masks)}
            | {"peak_memory_gib": peak_bytes() / 2**30}
        )
    return rows


def memory(args: argparse.Namespace) -> list[dict[str, object]]:
    """Peak memory of this process after one head of every layer, without the reference."""
    t = random_transformer(args.layers, args.heads, args.d_model, args.vocab)
    model = Model("random", args.layers, args.heads, t)
    oracle = Oracle(
        model, RandomText(), task_name="random", seed=0, batch_size=args.batch, device=args.device
    )
    rows: list[dict[str, object]] = []
    for name, masks in (
        ("clean passes", oracle.head_masks()[:0]),
        ("first layer's head", oracle.head_masks()[:1]),
        ("one head per layer", oracle.head_masks()[:: args.heads]),
    ):
        _ = oracle.clean_metric, oracle.clean_control
        oracle.query(masks)
        rows.append({"after": name, "peak_memory_gib": peak_bytes() / 2**30})
    return rows


def render(rows: list[dict[str, object]]) -> str:
    """A plain table."""
    header = list(rows[0])
    cells = [header] + [
        [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workloads", default="sweep,masks,episodes,gradient")
    for name, value in (("layers", 12), ("heads", 12), ("d-model", 768), ("vocab", 50257)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("batch", 32), ("heads-per-layer", 1), ("masks", 4), ("envs", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--reference-every", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--together", action="store_true", help="ask ours all masks in one call")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    if args.scaling or args.memory:
        rows = scaling(args, clock) if args.scaling else memory(args)
        print(json.dumps(rows, indent=1) if args.json else render(rows))
        return
    bench = Bench(args, clock)
    peak = matmul_peak(args.device, clock=clock)
    results = [asdict(bench.measure(name, peak)) for name in args.workloads.split(",")]
    if args.json:
        facts = {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "device": args.device,
            "threads": args.threads,
            "clock": args.clock,
            "peak_gflops": peak / 1e9,
        }
        print(json.dumps({"facts": facts, "rows": results}, indent=1))
    else:
        print(f"measured float32 matmul peak: {peak / 1e9:.0f} GFLOP/s ({args.clock} time)")
        print(render(results))


if __name__ == "__main__":
    main()
