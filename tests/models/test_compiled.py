import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_kit import transformer_of

from circuitbench.checks.contracts import check_task
from circuitbench.checks.health import render, validate_task
from circuitbench.core.circuit import Edge
from circuitbench.core.errors import InvalidSpec
from circuitbench.models.compiled.compiler import CompilerOptions, compile_program
from circuitbench.models.compiled.programs import EXAMPLES, compiled_model
from circuitbench.models.compiled.rasp import Program, Select
from circuitbench.models.forward import forward
from circuitbench.oracle import Oracle
from circuitbench.plugins.registry import load_model, load_task

PADDED = CompilerOptions(n_heads=8)
MODELS = {name: compiled_model(example, PADDED) for name, example in EXAMPLES.items()}


def run(compiled: Any, inputs: Any) -> Any:
    """The most likely next token at each position after BOS, as text, and all logits."""
    number = {token: i for i, token in enumerate(compiled.vocabulary)}
    tokens = torch.tensor([[0, *(number[x] for x in symbols)] for symbols in inputs])
    logits, _, _ = forward(compiled.transformer, tokens)
    n_words = len(compiled.language.near)
    best = logits[:, 1:, 1:-n_words].argmax(-1) + 1
    return [[compiled.vocabulary[i] for i in row] for row in best.tolist()], logits[:, 1:]


def agrees(compiled: Any, example: Any, n: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    inputs = [example.draw(rng) for _ in range(n)]
    outputs, logits = run(compiled, inputs)
    answers = [example.answers(symbols) for symbols in inputs]
    for symbols, output, right in zip(inputs, outputs, answers, strict=True):
        wanted = [b if a is None else a for a, b in zip(right, output, strict=True)]
        assert output == wanted, symbols
    judged = torch.tensor([[a is not None for a in row] for row in answers])
    top = logits[judged].topk(2).values
    assert (top - torch.tensor([10.0, 0.0])).abs().max() < 0.02


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_model_computes_the_program_at_every_position(name: str) -> None:
    agrees(MODELS[name].construction.compiled, EXAMPLES[name], n=400)


def test_frac_prevs_is_right_on_every_input_there_is() -> None:
    example: Any = EXAMPLES["frac-prevs"]
    # By symmetry every input that starts with an a stands for three.
    inputs = [["a", *rest] for rest in itertools.product("abc", repeat=example.n - 1)]
    outputs, _ = run(MODELS["frac-prevs"].construction.compiled, inputs)
    assert outputs == [example.answers(symbols) for symbols in inputs]


@pytest.mark.parametrize(
    "options",
    [
        CompilerOptions(),
        CompilerOptions(hide=False, n_heads=7),
        CompilerOptions(n_layers=6, n_heads=9, seed=5),
        CompilerOptions(d_model=160, n_words=3, seed=2),
    ],
)
@pytest.mark.parametrize("name", ["sort", "dyck"])
def test_options_change_the_weights_and_not_the_program(name: str, options: Any) -> None:
    model = compiled_model(EXAMPLES[name], options)
    agrees(model.construction.compiled, EXAMPLES[name], n=50)
    if options.n_layers:
        assert model.n_layers == options.n_layers
    if options.n_heads:
        assert model.n_heads == options.n_heads


@pytest.mark.parametrize("name", EXAMPLES)
def test_truth_heads_matter_and_others_never_do(name: str) -> None:
    model, task = MODELS[name], load_task(name)
    truth: Any = task.truth(model)
    oracle = Oracle(model, task, task_name=name, seed=3, batch_size=32)
    inside = torch.zeros(oracle.shape, dtype=torch.bool)
    for layer, head in truth.heads:
        inside[layer, head] = True
    subsets = torch.from_numpy(np.random.default_rng(0).random((16, *oracle.shape)) < 0.5)
    for ablation in truth.ablations:
        alone = oracle.query(oracle.head_masks(), ablation=ablation, control=False).task
        alone = alone.view(oracle.shape)
        assert alone[inside].min() > 1.0, ablation
        assert alone[~inside].abs().max() < 0.02, ablation
        # Whatever is ablated in the circuit, what surrounds it changes nothing.
        with_rest = oracle.query(subsets | ~inside, ablation=ablation, control=False).task
        without = oracle.query(subsets, ablation=ablation, control=False).task
        assert (with_rest - without).abs().max() < 0.02, ablation
    assert truth.ablations == ("zero", "mean", "resample")


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_the_health_gate_passes(ablation: Any) -> None:
    for name, model in MODELS.items():
        card = validate_task(name, model, load_task(name), ablation=ablation, prompts=32, subsets=3)
        assert card.passed, render(card)
        assert card.dials["n_heads"] == 8


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_control_text_is_the_language_and_needs_its_own_head(name: str) -> None:
    model, task = MODELS[name], load_task(name)
    compiled = model.construction.compiled
    oracle = Oracle(model, task, task_name=name, seed=1, batch_size=64)
    assert oracle.clean_control < 0.6 * np.log(len(compiled.vocabulary))
    loss = oracle.query(oracle.head_masks()).control
    assert loss is not None
    damage = loss.view(oracle.shape)
    (speaker,) = compiled.padding["language"]
    assert damage[speaker] > 0.1
    damage[speaker] = 0.0
    assert damage.abs().max() < 1e-3


@pytest.mark.parametrize("name", EXAMPLES)
def test_tasks_keep_their_contract_and_the_counterfactual_flips_the_metric(name: str) -> None:
    model, task = load_model(f"compiled-{name}@4"), load_task(name)
    check_task(task, model)
    prompts = task.prompts(model, 64, np.random.default_rng(0))
    for tokens, sign in ((prompts.tokens, 1), (prompts.counterfactual, -1)):
        logits, _, _ = forward(transformer_of(model), tokens)
        assert prompts.metric(logits).numpy() == pytest.approx(10 * sign, abs=0.02)


def test_edges_and_mlps_name_only_what_is_in_the_circuit() -> None:
    for name, model in MODELS.items():
        truth: Any = load_task(name).truth(model)
        assert truth.edges is not None
        inside = {str(h) for h in truth.heads} | {f"m{i}" for i in truth.mlps}
        for sender, receiver in truth.edges:
            assert sender in inside | {"embed"}
            assert receiver.removesuffix(".q").removesuffix(".k").removesuffix(".v") in inside | {
                "logits"
            }
        senders = {edge.sender for edge in truth.edges}
        assert inside <= senders, "every part of the circuit is read by something"
        assert truth.edge_ablations == ("mean", "resample")  # the health gate tests them


def test_what_only_says_which_position_is_no_edge() -> None:
    truth: Any = load_task("reverse").truth(MODELS["reverse"])
    (stop,), (fetch,) = (truth.roles[role].heads for role in ("find-stop", "fetch"))
    (mirror,) = truth.mlps
    assert truth.edges == {
        Edge("embed", f"{stop}.k"),  # not its value, the stop's position
        Edge(str(stop), f"m{mirror}"),
        Edge(f"m{mirror}", f"{fetch}.q"),
        Edge("embed", f"{fetch}.v"),  # not its key, a position
        Edge(str(fetch), "logits"),
    }


def test_a_hidden_basis_shows_no_zeros_and_a_plain_one_does() -> None:
    hidden = transformer_of(compiled_model(EXAMPLES["sort"], CompilerOptions()))
    plain = transformer_of(compiled_model(EXAMPLES["sort"], CompilerOptions(hide=False)))
    assert (hidden.W_E == 0).float().mean() < 0.01
    assert (plain.W_E == 0).float().mean() > 0.9


def test_a_seed_builds_the_same_model_twice_and_another_seed_another() -> None:
    one, two, other = (transformer_of(load_model(f"compiled-reverse@{seed}")) for seed in (1, 1, 2))
    assert torch.equal(one.W_E, two.W_E)
    assert torch.equal(one.layers[1].W_Q, two.layers[1].W_Q)
    assert not torch.equal(one.W_E, other.W_E)


@settings(max_examples=25, deadline=None)
@given(
    symbols=st.lists(st.sampled_from("abc"), min_size=6, max_size=6),
    wanted=st.sampled_from("abc"),
    seed=st.integers(0, 5),
)
def test_counting_and_copying_compose(symbols: Any, wanted: Any, seed: int) -> None:
    """How many of a letter so far, and whether it is the letter under which it was counted."""
    program = Program(("a", "b", "c"), 6)
    count = program.width("count", Select(None, program.tokens, lambda k: k == wanted), 6)
    seen = program.aggregate(
        "seen", Select(None, program.tokens, lambda k: k == wanted), program.tokens, default="a"
    )
    output = program.map(lambda c, t: f"{c}{t}", count, seen)
    compiled = compile_program(program, output, source="test", options=CompilerOptions(seed=seed))
    (result,), _ = run(compiled, [symbols])
    for i, said in enumerate(result):
        so_far = symbols[: i + 1].count(wanted)
        assert said == f"{so_far}{wanted if so_far else 'a'}"


def small() -> Any:
    program = Program(("a", "b"), 4)
    first = program.aggregate(
        "first", Select(None, program.positions, lambda k: k == 1), program.tokens
    )
    count = program.width("count", Select(first, program.tokens, lambda q, k: q == k), 4)
    return program, count


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (CompilerOptions(n_heads=1), "needs 2 heads in one layer, not 1"),
        (CompilerOptions(n_layers=1), "needs 2 layers, not 1"),
        (CompilerOptions(d_model=10), "d_model 10 is too small: the program needs"),
        (CompilerOptions(n_words=1), "at least 2 words"),
    ],
)
def test_a_grid_that_cannot_hold_the_program_is_refused(options: Any, reason: Any) -> None:
    program, output = small()
    with pytest.raises(InvalidSpec, match=reason):
        compile_program(program, output, source="test", options=options)


def test_programs_that_make_no_sense_are_refused() -> None:
    program, _ = small()
    tokens = program.tokens
    with pytest.raises(InvalidSpec, match="two heads cannot both be called 'first'"):
        program.aggregate("first", Select(None, tokens, lambda k: k == "a"), tokens)
    with pytest.raises(InvalidSpec, match="yes-or-no"):
        program.width("graded", Select(None, tokens, lambda k: 2.5), 3)
    with pytest.raises(InvalidSpec, match="default 'z' is not a value"):
        program.aggregate("odd", Select(None, tokens, lambda k: k == "a"), tokens, default="z")
    with pytest.raises(InvalidSpec, match="undefined for all values"):
        program.map(lambda t: None, tokens)
    with pytest.raises(InvalidSpec, match="at most 0"):
        program.width("none", Select(None, tokens, lambda k: True), 0)
    with pytest.raises(InvalidSpec, match="distinct"):
        Program(("a", "a"), 3)
    with pytest.raises(InvalidSpec, match="at least 1 position"):
        Program(("a",), 0)
    clash = Program(("w0", "b"), 3)
    with pytest.raises(InvalidSpec, match="are taken"):
        compile_program(
            clash,
            clash.aggregate("x", Select(None, clash.positions, lambda k: k == 1), clash.tokens),
            source="test",
        )


def test_a_wrong_model_or_variant_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="use model compiled-sort"):
        load_task("sort").prompts(MODELS["reverse"], 2, np.random.default_rng(0))
    with pytest.raises(InvalidSpec, match="a whole number such as 3"):
        load_model("compiled-sort@big")
