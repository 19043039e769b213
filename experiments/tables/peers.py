"""The table of docs/peers.md: ``python experiments/tables/peers.py``.

Scores edges of one small random transformer with LayerNorm and MLPs in three ways, on the same
prompts and counterfactuals, and compares: circuitbench's methods; formulas written out below on a
plain forward pass; and ``auto-circuit`` from the package index, in an environment of its own,
which is made (a few GB, some minutes) unless ``--venv`` names one that has it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from circuitbench import (
    Circuit,
    Edge,
    Head,
    LayerWeights,
    Model,
    Oracle,
    Prompts,
    Role,
    Straight,
    Transformer,
    TransformerConfig,
    generator,
    load_method,
)

TOLERANCE = 1e-4
THRESHOLDS = (0.001, 0.003, 0.01, 0.03)
# What works with auto-circuit 1.0.1: it imports attrs without asking for it, and modules that
# transformer_lens 3 and transformers 5 no longer have.
PEER = ("auto-circuit==1.0.1", "transformer-lens==2.15.4", "transformers<5", "attrs")


def random_transformer(seed: int, n_layers: int = 2, n_heads: int = 3) -> Transformer:
    """A pre-norm transformer of random weights, with biases, LayerNorm and MLPs everywhere."""
    rng = generator(seed, "peers")
    d, h, d_mlp, vocab, n_ctx = 16, 6, 24, 29, 10

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return torch.as_tensor(scale * rng.standard_normal(size), dtype=torch.float32)

    def layer() -> LayerWeights:
        return LayerWeights(
            W_Q=draw(n_heads, d, h, scale=d**-0.5),
            W_K=draw(n_heads, d, h, scale=d**-0.5),
            W_V=draw(n_heads, d, h, scale=d**-0.5),
            W_O=draw(n_heads, h, d, scale=(n_heads * h) ** -0.5),
            b_Q=draw(n_heads, h, scale=0.1),
            b_K=draw(n_heads, h, scale=0.1),
            b_V=draw(n_heads, h, scale=0.1),
            b_O=draw(d, scale=0.1),
            W_in=draw(d, d_mlp, scale=d**-0.5),
            b_in=draw(d_mlp, scale=0.1),
            W_out=draw(d_mlp, d, scale=d_mlp**-0.5),
            b_out=draw(d, scale=0.1),
            ln1_w=1 + draw(d, scale=0.1),
            ln1_b=draw(d, scale=0.1),
            ln2_w=1 + draw(d, scale=0.1),
            ln2_b=draw(d, scale=0.1),
        )

    return Transformer(
        TransformerConfig(
            n_layers=n_layers,
            n_heads=n_heads,
            d_model=d,
            d_head=h,
            d_vocab=vocab,
            n_ctx=n_ctx,
            attn_scale=h**-0.5,
            d_mlp=d_mlp,
            normalization="layer",
        ),
        W_E=draw(vocab, d),
        W_U=draw(d, vocab, scale=d**-0.5),
        layers=tuple(layer() for _ in range(n_layers)),
        W_pos=draw(n_ctx, d, scale=0.5),
        b_U=draw(vocab, scale=0.1),
        lnf_w=1 + draw(d, scale=0.1),
        lnf_b=draw(d, scale=0.1),
    )


class RandomPrompts:
    """Random tokens and counterfactuals; the metric reads two random logits at the last one."""

    default_model = "peers"

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of 8 tokens."""
        tokens, other = torch.as_tensor(rng.integers(29, size=(2, n, 8)))
        pairs = np.stack([rng.choice(29, 2, replace=False) for _ in range(n)])
        return Prompts(
            tokens,
            other,
            torch.full((n, 1), 7),
            torch.as_tensor(pairs)[:, None],
            torch.tensor([[[1.0, -1.0]]]).expand(n, -1, -1),
            torch.arange(29),
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` random spans of 4 tokens after a zero; nobody asks about them."""
        spans = torch.as_tensor(rng.integers(29, size=(n, 5)))
        spans[:, 0] = 0
        return spans

    def truth(self, model: Model) -> Circuit:
        """Nothing is known."""
        return Circuit({"any": Role((Head(0, 0),))}, "arbitrary", "ambiguous")


def written_out(model: Transformer, prompts: Prompts, points: Sequence[float]) -> dict[Edge, float]:
    """Edge attributions by their formula, on a forward pass that knows nothing of edges.

    ``(z_clean - z_corrupt) . mean over points of d metric / d input``, where a point is a run
    whose embedding is ``corrupt + point * (clean - corrupt)``: 1 alone is edge attribution
    patching (Syed et al. 2023, arXiv 2310.10348), 0, 1/m, ... (m - 1)/m is EAP-IG (Hanna et al.
    2024, arXiv 2403.17806). Sums over positions, means over prompts.
    """
    clean, corrupt = (embedded(model, t) for t in (prompts.tokens, prompts.counterfactual))
    said, said_otherwise = (run(model, x)[1] for x in (clean, corrupt))
    slopes: dict[str, Tensor] = {}
    for point in points:
        logits, _, heard = run(model, corrupt + point * (clean - corrupt))
        value = prompts.metric(logits).mean()
        for name, slope in zip(
            heard, torch.autograd.grad(value, list(heard.values())), strict=True
        ):
            slopes[name] = slopes.get(name, torch.zeros_like(slope)) + slope / len(points)
    order = list(said)
    scores = {}
    for receiver, slope in slopes.items():
        node = receiver.rpartition(".")[0] if receiver.count(".") == 2 else receiver
        layer = int(node.lstrip("m").split(".")[0]) if node != "logits" else model.config.n_layers
        for sender in order:
            above = -1 if sender == "embed" else int(sender.lstrip("m").split(".")[0])
            same_layer = above == layer and node.startswith("m") and not sender.startswith("m")
            if above < layer or same_layer:
                change = said[sender] - said_otherwise[sender]
                scores[Edge(sender, receiver)] = float((change * slope).sum())
    return scores


def embedded(model: Transformer, tokens: Tensor) -> Tensor:
    """``[batch, pos, d_model]`` before the first layer."""
    assert model.W_pos is not None
    return model.W_E[tokens] + model.W_pos[: tokens.shape[1]]


def run(model: Transformer, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, what every sender writes, and what every receiver reads (to differentiate by).

    Every receiver reads its own copy of the residual stream.
    """
    cfg = model.config
    said, heard = {"embed": x.detach()}, {}

    def reads(name: str, stream: Tensor) -> Tensor:
        heard[name] = stream * torch.ones((), requires_grad=True)
        return heard[name]

    def norm(stream: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(stream, (cfg.d_model,), weight, bias, cfg.norm_eps)

    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    for i, w in enumerate(model.layers):
        assert w.b_Q is not None
        assert w.b_K is not None
        assert w.b_V is not None
        outs = []
        for head in range(cfg.n_heads):
            q, k, v = (
                norm(reads(f"{i}.{head}.{letter}", x), w.ln1_w, w.ln1_b) @ W[head] + b[head]
                for letter, W, b in (("q", w.W_Q, w.b_Q), ("k", w.W_K, w.b_K), ("v", w.W_V, w.b_V))
            )
            pattern = (q @ k.transpose(1, 2) * cfg.attn_scale).masked_fill(future, -torch.inf)
            outs.append(pattern.softmax(-1) @ v @ w.W_O[head])
            said[f"{i}.{head}"] = outs[-1].detach()
        assert w.b_O is not None
        x = x + torch.stack(outs).sum(0) + w.b_O
        assert w.W_in is not None
        assert w.W_out is not None
        assert w.b_in is not None
        assert w.b_out is not None
        hidden = norm(reads(f"m{i}", x), w.ln2_w, w.ln2_b) @ w.W_in + w.b_in
        out = F.gelu(hidden, approximate="tanh") @ w.W_out + w.b_out
        said[f"m{i}"] = out.detach()
        x = x + out
    final = norm(reads("logits", x), model.lnf_w, model.lnf_b)
    assert model.b_U is not None
    return final @ model.W_U + model.b_U, said, heard


def worst(ours: Mapping[Edge, float], theirs: Mapping[Edge, float]) -> float:
    """The largest difference of two scorings; infinite where they score other edges."""
    if ours.keys() != theirs.keys():
        return float("inf")
    return max((abs(ours[edge] - theirs[edge]) for edge in ours), default=0.0)


def peer_edge(edge: Edge) -> str:
    """An edge as auto-circuit spells it: ``0.1->1.2.k`` is ``A0.1->A1.2.K``."""

    def node(name: str) -> str:
        if name.startswith("m"):
            return f"MLP {name[1:]}"
        known = {"embed": "Resid Start", "logits": "Resid End"}
        return known.get(name, "A" + name.upper())

    return f"{node(edge.sender)}->{node(edge.receiver)}"


def acdc_order(edges: Sequence[Edge]) -> list[Edge]:
    """In which order ``acdc-edges`` visits them: from the logits down, latest sender first."""
    receivers = list(dict.fromkeys(edge.receiver for edge in reversed(edges)))
    turned = {"q": "v", "k": "k", "v": "q"}
    visited = [r[:-1] + turned[r[-1]] if "." in r else r for r in receivers]
    return [edge for r in visited for edge in reversed(edges) if edge.receiver == r]


def ask_auto_circuit(
    python: Path, model: Transformer, prompts: Prompts, edges: Sequence[Edge]
) -> dict[str, Any]:
    """What auto-circuit says of the same model and prompts: see peers_auto_circuit.py."""
    cfg = model.config
    with tempfile.TemporaryDirectory() as folder:
        case, answer = Path(folder, "case.pt"), Path(folder, "answer.json")
        state = {
            "embed.W_E": model.W_E,
            "pos_embed.W_pos": model.W_pos,
            "unembed.W_U": model.W_U,
            "unembed.b_U": model.b_U,
            "ln_final.w": model.lnf_w,
            "ln_final.b": model.lnf_b,
        }
        for i, w in enumerate(model.layers):
            for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
                state[f"blocks.{i}.attn.{name}"] = getattr(w, name)
            for name in ("W_in", "b_in", "W_out", "b_out"):
                state[f"blocks.{i}.mlp.{name}"] = getattr(w, name)
            for name in ("ln1_w", "ln1_b", "ln2_w", "ln2_b"):
                state[f"blocks.{i}.{name.replace('_', '.')}"] = getattr(w, name)
        config = {name: getattr(cfg, name) for name in ("n_layers", "n_heads", "d_model", "d_head")}
        config |= {"d_vocab": cfg.d_vocab, "n_ctx": cfg.n_ctx, "d_mlp": cfg.d_mlp}
        torch.save(
            {
                "config": config,
                "eps": cfg.norm_eps,
                "scale": 1 / cfg.attn_scale,
                "state": state,
                "clean": prompts.tokens,
                "corrupt": prompts.counterfactual,
                "answers": prompts.token_ids[:, 0],
                "order": [peer_edge(edge) for edge in acdc_order(edges)],
                "thresholds": list(THRESHOLDS),
            },
            case,
        )
        script = Path(__file__).with_name("peers_auto_circuit.py")
        done = subprocess.run(
            [python, script, case, answer], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"auto-circuit failed in {python}:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(answer.read_text())
    return found


def make_venv(folder: Path, pip_options: Sequence[str]) -> Path:
    """The interpreter of an environment with auto-circuit in ``folder``, made if need be."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *PEER, *pip_options]
        subprocess.run(install, check=True)
    return python


def summed_row(model: Transformer, oracle: Oracle) -> tuple[str, str, str, str]:
    """On a path that moves the embedding, its edges' attributions sum to what the metric gains."""
    prompts = oracle.batch.source.prompts
    ends = [
        prompts.metric(run(model, embedded(model, tokens))[0]).mean().item()
        for tokens in (prompts.counterfactual, prompts.tokens)
    ]
    of_embedding = torch.tensor([edge.sender == "embed" for edge in oracle.edges.edges])
    off = []
    for alphas in ([k / 5 for k in range(5)], [(k + 0.5) / 64 for k in range(64)]):
        path = Straight(tuple(alphas))
        found = oracle.edges.attribution(path, ablation="resample").mean(0)[of_embedding]
        off.append(abs(float(found.sum()) - (ends[1] - ends[0])))
    return (
        "EAP-IG summed, 5 points and 64 midpoints",
        "the metric's difference",
        f"{off[0]:.1e} and {off[1]:.1e} of {abs(ends[1] - ends[0]):.2f}",
        "yes" if off[1] <= TOLERANCE else "NO",
    )


def compared(python: Path, seed: int) -> list[tuple[str, str, str, str]]:
    """Rows of the table: what, against whom, the figure, and whether it is good enough."""
    model = random_transformer(seed)
    shape = model.config.n_layers, model.config.n_heads
    oracle = Oracle(
        Model("peers", *shape, model), RandomPrompts(), task_name="peers", seed=seed, batch_size=8
    )
    edges, prompts = oracle.edges.edges, oracle.batch.source.prompts
    peer = ask_auto_circuit(python, model, prompts, edges)
    name = {peer_edge(edge): edge for edge in edges}

    def scores_of(method: str, **settings: Any) -> dict[Edge, float]:
        found = load_method(method, listed=len(edges), **settings).discover(
            oracle, generator(seed, method)
        )
        return dict(found.signed_edges or found.edges or {})

    eap, five = scores_of("edge-attribution-patching"), scores_of("eap-ig-inputs")
    theirs = {name[edge]: score for edge, score in peer["eap"].items()}
    rows = []

    def scores_row(what: str, against: str, difference: float) -> None:
        good = "yes" if difference <= TOLERANCE else "NO"
        rows.append((what, against, f"{difference:.1e}", good))

    scores_row("EAP", "formula written out", worst(eap, written_out(model, prompts, (1.0,))))
    scores_row("EAP", "auto-circuit", worst(eap, theirs))
    points = [k / 5 for k in range(5)]
    scores_row(
        "EAP-IG, 5 points", "formula written out", worst(five, written_out(model, prompts, points))
    )
    rows.append(summed_row(model, oracle))
    for threshold in THRESHOLDS:
        method = load_method("acdc-edges", threshold=threshold, listed=len(edges))
        kept = method.discover(oracle, generator(seed, "acdc-edges")).selected_edges or frozenset()
        other = {name[edge] for edge in peer["acdc"][str(threshold)]}
        figure = f"{len(kept)} and {len(other)} of {len(edges)}, {len(kept ^ other)} differ"
        good = "yes" if kept == other else "NO"
        rows.append((f"ACDC at {threshold:g}", "auto-circuit", figure, good))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, help="with auto-circuit, or to be made there")
    parser.add_argument("--seeds", nargs="+", type=int, default=(100, 101, 102))
    parser.add_argument("--pip", nargs="*", default=(), help="options for pip install")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        python = make_venv((options.venv or Path(folder)).absolute(), options.pip)
        print("| seed | method | against | figure | equal |\n|---:|---|---|---|---|")
        failed = False
        for seed in options.seeds:
            for row in compared(python, seed):
                print("|", " | ".join([str(seed), *row]), "|", flush=True)
                failed |= row[-1] != "yes"
    if failed:
        sys.exit("some figures differ by more than they should")


if __name__ == "__main__":
    main()
