"""Tasks as files: what they may say, what is refused and how, and what prompts they give."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Words, copying_model

from circuitbench.checks.contracts import check_task
from circuitbench.core.errors import CircuitBenchError, InvalidSpec, UnknownName
from circuitbench.models import Model
from circuitbench.plugins.behaviours import behaviours, info_of_file
from circuitbench.plugins.registry import list_plugins, load_model, load_task
from circuitbench.tasks.text.schema import TaskFile, Truth
from circuitbench.tasks.text.task import TRUTHS, read_shipped, read_task, read_truth

GOOD = """\
title: Who was given it
templates:
  - "{A} w20 {B} {S} w21"
words:
  names: w1 w2 w3 w4 w5 w6
slots: {A: names, B: names, C: names}
clean: {S: "{B}"}
corrupted: {S: "{C}"}
answer: "{A}"
wrong: "{B}"
"""
TRUTH = """\
truths:
  mine:
    source: me
    kind: ambiguous
    models: copying
    layers: 1
    heads: 64
    ablations: [zero]
    roles: {mover: {heads: "0.0 0.1", sign: 1}}
    disputed: "0.2"
  other: {source: me, kind: literature, models: gpt2, layers: 12, heads: 12, roles: {}}
"""


def written(folder: Path, text: str, name: str = "task.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def prompts_of(path: str, n: int = 8, seed: int = 0) -> Any:
    return read_task(path).prompts(copying_model(1), n, np.random.default_rng(seed))


def test_a_template_gives_prompts(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + 'spans: {S2: S, after: "A+1", END: last, "second": "B"}\n')
    prompts = prompts_of(path)
    a, b, s = prompts.tokens[:, 1], prompts.tokens[:, 3], prompts.tokens[:, 4]
    assert torch.equal(b, s)
    assert torch.equal(prompts.token_ids[:, 0], torch.stack([a, b], 1))
    assert (prompts.counterfactual != prompts.tokens).sum(1).tolist() == [1] * 8
    third = prompts.counterfactual[:, 4]
    assert not ((third == a) | (third == b)).any()
    assert prompts.positions.tolist() == [[5]] * 8
    assert sorted(prompts.choices.tolist()) == [2, 3, 4, 5, 6, 7]
    spans = {name: span[0].tolist() for name, span in prompts.spans.items()}
    assert spans == {"S2": [4, 5], "after": [2, 3], "END": [5, 6], "second": [3, 4]}


def test_it_keeps_the_contract_and_its_draws_follow_the_seed(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    task = read_task(path).with_control(Path(written(tmp_path, "w1 w2 w3 " * 60, "text.txt")))
    check_task(task, copying_model(1))
    assert torch.equal(prompts_of(path, seed=3).tokens, prompts_of(path, seed=3).tokens)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("title: Who was given it\n", ""), "title is missing"),
        (("answer:", "anwser:"), "did you mean 'answer'"),
        (("answer:", "anwser:"), "(line 9)"),
        (('answer: "{A}"', 'answer: "{D}"'), "template 1: no slot 'D'"),
        (("C: names}", "C: nmes}"), "slots.C: no list 'nmes'; did you mean 'names'"),
        (('corrupted: {S: "{C}"}', "corrupted: {}"), "S must be filled clean and corrupted"),
        (("names: w1 w2 w3 w4 w5 w6", "names: [w1, yes]"), "YAML reads yes, no"),
        (("names: w1 w2 w3 w4 w5 w6", "names: [w1, yes]"), "(line 5)"),
        (("names: w1 w2 w3 w4 w5 w6", "names: []"), "words.names"),
        (('"{A} w20', '"{A w20'), "braces that are no slot"),
        (("slots:", "slots: {}\nslots:"), "key 'slots' is there twice"),
        (("title: Who", "title: [Who"), "is not valid YAML"),
        (("title: Who", "title: *who"), "is not valid YAML: found undefined alias"),
        (('wrong: "{B}"', 'wrong: "{A}"'), "is right and wrong"),
        (('corrupted: {S: "{C}"}', 'corrupted: {S: "{B}"}'), "the counterfactual is the prompt"),
        (('corrupted: {S: "{C}"}', 'corrupted: {S: "{C} w2"}'), "another number of tokens"),
        (
            ('wrong: "{B}"', 'wrong: "{B}"\ncorrupted_answer: "{A}"'),
            "the counterfactual has the same answer in 8 of 8 prompts",
        ),
        (
            ("names: w1 w2 w3 w4 w5 w6", "names: w1 w2w3 w4 w5w6w7"),
            "names: 'w2w3' (2), 'w5w6w7' (3); take them out, or say 'split: drop'",
        ),
        (('{B} {S} w21"', '{B} {S} {A*3}"'), "needs 'written_in: tokens'"),
        (('{B} {S} w21"', '{B} {S.2} w21"'), "S is no word of a list"),
        (('{B} {S} w21"', '{B.2} {S} w21"'), "has no form 2"),
        (('wrong: "{B}"', 'wrong: "{B}"\nspans: {x: "A#2"}'), "stands in a prompt 1 times, not 2"),
        (('wrong: "{B}"', 'wrong: "{B}"\nlimits: {acuracy: 1}'), "did you mean 'accuracy'"),
        (('wrong: "{B}"', 'wrong: "{B}"\ntruths: {wang-2022-oi: }'), "'wang-2022-ioi'"),
        (('wrong: "{B}"', 'wrong: "{B}"\npairs_file: ../x.csv'), "one of the three"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    change: tuple[str, str], said: str, tmp_path: Path
) -> None:
    assert change[0] in GOOD
    with pytest.raises(CircuitBenchError) as caught:
        prompts_of(written(tmp_path, GOOD.replace(*change)))
    message = str(caught.value)
    assert said in message
    assert "task.yaml" in message
    assert "\n" not in message
    assert str(tmp_path) not in message


def test_documents_that_blow_up_are_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for this, last in zip("bcdefg", "abcdef", strict=True):
        bomb += f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]\n"
    with pytest.raises(InvalidSpec, match="aliases included"):
        read_task(written(tmp_path, bomb))
    with pytest.raises(InvalidSpec, match="contains itself"):
        read_task(written(tmp_path, "a: &a [*a]\n"))
    with pytest.raises(InvalidSpec, match="nested more than"):
        read_task(written(tmp_path, "a: " + "[" * 40 + "]" * 40))
    with pytest.raises(InvalidSpec, match="larger than"):
        read_task(written(tmp_path, "#" * (1 << 20) + "\n" + GOOD))
    with pytest.raises(InvalidSpec, match="not valid YAML"):
        read_task(written(tmp_path, "a: !!python/object/apply:os.system [id]\n"))
    with pytest.raises(InvalidSpec, match="cannot read"):
        read_task(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"title: \xe9")
    with pytest.raises(InvalidSpec, match="not UTF-8"):
        read_task(str(tmp_path / "latin.yaml"))


def test_words_that_split_may_be_dropped_or_allowed(tmp_path: Path) -> None:
    text = GOOD.replace("names: w1 w2 w3 w4 w5 w6", "names: w1 w2w3 w4 w5w6w7 w8")
    prompts = prompts_of(written(tmp_path, text + "split: drop\n"), 30)
    assert set(prompts.tokens[:, 1].tolist()) == {2, 5, 9}
    few = text.replace(" w8", "") + "split: drop\n"
    with pytest.raises(InvalidSpec, match="names has 2 words that are one token"):
        prompts_of(written(tmp_path, few))
    # Allowed where nothing is answered by them; prompts are then of several lengths.
    places = GOOD.replace("w20", "{P}").replace("words:", "words:\n  places: w9 w9w10")
    places = places.replace("slots: {", "slots: {P: places, ") + "split: allow\n"
    prompts = prompts_of(written(tmp_path, places), 30)
    assert set(prompts.lengths.tolist()) == {6, 7}
    assert torch.equal(prompts.positions[:, 0], prompts.lengths - 1)


def test_answers_above_a_number_and_forms_and_templates_of_their_own(tmp_path: Path) -> None:
    text = """
title: Above
templates:
  - "w9 {start} w8"
  - {text: "w7 {start}", wrong: [w1, w2]}
words: {numbers: w10 w11 w12 w13 w14 w15, inner: w11 w12 w13 w14}
slots: {N: inner}
clean: {start: "{N}"}
corrupted: {start: w10}
answer: {words: numbers, above: start}
wrong: {words: numbers, upto: N}
"""
    prompts = prompts_of(written(tmp_path, text), 40)
    seen = set()
    for row, ids, weights in zip(
        prompts.tokens.tolist(), prompts.token_ids[:, 0], prompts.weights[:, 0], strict=True
    ):
        right, wrong = set(ids[weights > 0].tolist()), set(ids[weights < 0].tolist())
        assert right == set(range(row[2] + 1, 17))
        assert wrong == ({2, 3} if row[1] == 8 else set(range(11, row[2] + 1)))
        assert float(weights.sum()) == pytest.approx(0, abs=1e-6)
        seen.add(row[1])
    assert seen == {8, 10}


def test_templates_of_tokens(tmp_path: Path) -> None:
    text = """
title: Induction
written_in: tokens
templates: ["{first} {B} {x*7} w3 {A}"]
slots: {A: vocabulary, B: vocabulary, C: vocabulary, D: vocabulary, x: vocabulary}
clean: {first: "{A}"}
corrupted: {first: "{C}"}
answer: "{B}"
wrong: "{D}"
spans: {fillers: x}
"""
    prompts = prompts_of(written(tmp_path, text), 20)
    assert prompts.tokens.shape == (20, 12)
    assert torch.equal(prompts.tokens[:, 1], prompts.tokens[:, -1])
    assert torch.equal(prompts.token_ids[:, 0, 0], prompts.tokens[:, 2])
    assert (prompts.tokens[:, 10] == 4).all()
    assert prompts.spans["fillers"].tolist() == [[3, 10]] * 20
    assert (prompts.tokens[:, 0] == 0).all()
    assert (prompts.tokens[:, 1:] > 0).all()
    assert all(len(set(row[1:10])) == 9 for row in prompts.tokens.tolist())


CSV_IDS = "clean,corrupted,correct_idx,incorrect_idx\nw1 w2,w3 w2,2,4\nw5 w6 w7,w8 w6 w7,[6],9.0\n"
CSV_TEXT = '"clean","corrupted","answer","wrong"\nw1 w2,w3 w2,w1,w3\nw5 w6 w7,w8 w6 w7,w5,w8\n'
LINES = (
    '{"clean": "w1 w2<predict>w1</predict>", "corrupted": "w3 w2<predict>w3</predict>"}\n\n'
    '{"clean": "w5 w6 w7", "corrupt": "w8 w6 w7", "answers": ["w5"], "wrong_answers": ["w8"]}\n'
)


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", CSV_IDS), ("b.csv", CSV_TEXT), ("c.jsonl", LINES)]
)
def test_pairs_of_other_tools(name: str, text: str, tmp_path: Path) -> None:
    prompts = prompts_of(written(tmp_path, text, name), 6)
    assert sorted(prompts.lengths.tolist()) == [3, 3, 3, 4, 4, 4]
    for row, other, (answer, wrong) in zip(
        prompts.tokens, prompts.counterfactual, prompts.token_ids[:, 0].tolist(), strict=True
    ):
        assert (answer, wrong) == (int(row[1]), int(other[1]))
    with pytest.raises(InvalidSpec, match="names no model; say which with --model"):
        _ = read_task(str(tmp_path / name)).default_model
    held = f"title: Pairs\nmodel: copying\npairs_file: {name}\n"
    again = prompts_of(written(tmp_path, held), 6)
    assert torch.equal(again.tokens, prompts.tokens)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.csv", "", "no column clean, corrupted, answer (or correct_idx)"),
        ("x.csv", CSV_TEXT.splitlines()[0], "holds no pair"),
        ("x.csv", CSV_IDS.replace("2,4", "2,x"), "line 2: incorrect_idx must be the id of a token"),
        ("x.csv", CSV_TEXT + "w1,w2\n", "line 4: not 4 columns"),
        ("x.csv", CSV_TEXT + "w1 w2,w1 w2,w1,w3\n", "on lines 4"),
        ("x.jsonl", LINES + "{", "line 4 is not valid JSON"),
        ("x.jsonl", LINES + "[1]", "line 4: expected an object"),
        ("x.jsonl", '{"clean": "w1<predict>w2", "corrupted": "w3"}', "without </predict>"),
        ("x.jsonl", '{"clean": "w1<predict>w2</predict>", "corrupted": "w3"}', "no wrong"),
        ("x.jsonl", LINES.replace(">w3<", ">w1<"), "same answer in 1 of 2 pairs, on lines 1"),
        ("x.jsonl", LINES.replace('["w5"]', "[{}]"), "line 3: answer"),
        ("x.jsonl", "[" * 100_000, "nested too deep"),
        ("x.csv", CSV_TEXT.replace("w1,w3\n", "w1w2,w3\n"), "'w1w2' must be one token"),
    ],
)
def test_pairs_that_are_wrong(name: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as caught:
        prompts_of(written(tmp_path, text, name))
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_the_hash_is_part_of_the_name_and_is_checked(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    digits = hashlib.sha256(GOOD.encode()).hexdigest()[:12]
    assert read_task(path).name == read_task(f"{path}@{digits}").name == f"task.yaml@{digits}"
    written(tmp_path, GOOD + "# more\n")
    with pytest.raises(InvalidSpec, match="has changed"):
        read_task(f"{path}@{digits}")
    # What it refers to counts too.
    held = GOOD + "control: {file: text.txt, span: 4}\n"
    written(tmp_path, "w1 w2 w3 w4 w5 w6", "text.txt")
    first = read_task(written(tmp_path, held)).name
    written(tmp_path, "w1 w2 w3 w4 w5 w7", "text.txt")
    assert read_task(path).name != first
    spans = read_task(path).control(copying_model(1), 5, np.random.default_rng(0))
    assert spans.shape == (5, 4)
    written(tmp_path, "w1 w2", "text.txt")
    with pytest.raises(InvalidSpec, match="has 2 tokens; more than 4 are needed"):
        read_task(path).control(copying_model(1), 5, np.random.default_rng(0))
    elsewhere = GOOD + "control: {file: /etc/passwd}\n"
    with pytest.raises(InvalidSpec, match="must be beside the file"):
        read_task(written(tmp_path, elsewhere))


def test_truths_are_of_models_and_one_is_chosen(tmp_path: Path) -> None:
    task, model = read_task(written(tmp_path, GOOD + TRUTH)), copying_model(1)
    truth: Any = task.truth(model)
    assert {str(head) for head in truth.heads} == {"0.0", "0.1"}
    assert "disputed, and not counted as true: 0.2" in truth.blind_spots
    assert task.with_truth("none").truth(model) is None
    assert task.truth(Model("else", 1, 64, model.transformer)) is None
    with pytest.raises(InvalidSpec, match="is of gpt2"):
        task.with_truth("other").truth(model)
    with pytest.raises(UnknownName, match="did you mean 'mine'"):
        task.with_truth("mien")
    loaded: Any = load_task(str(tmp_path / "task.yaml"), truth="mine")
    assert loaded.truth_name == "mine"
    with pytest.raises(InvalidSpec, match="only files take another"):
        load_task("ioi", truth="wang-2022-ioi")
    for wrong, said in (('"0.0 0.1"', "not a head"), ('"0.0 0.2"', "true and disputed")):
        bad = "0.0 x" if "not" in said else "0.0 0.2"
        with pytest.raises(InvalidSpec, match=said):
            read_task(written(tmp_path, GOOD + TRUTH.replace('"0.0 0.1"', f'"{bad}"')))
        assert wrong


@pytest.mark.parametrize("name", ["hf:openai-community/gpt2@raw", "gpt2@folded", "gpt2"])
def test_a_truth_knows_its_model_by_any_of_its_names(name: str) -> None:
    assert read_truth("wang-2022-ioi").is_of(Model(name, 12, 12, None))
    assert not read_truth("wang-2022-ioi").is_of(Model(name, 2, 2, None))


def test_what_ships_can_be_read_and_is_listed() -> None:
    listed = {plugin.name for plugin in list_plugins("task")}
    for name, path in behaviours().items():
        task = read_shipped(name)
        assert name in listed
        assert task.info == info_of_file(path)
        assert task.default_model == "gpt2"
        assert isinstance(load_task(name), type(task))
    for path in TRUTHS.glob("*.yaml"):
        truth = read_truth(path.stem)
        assert truth.source
        assert truth.circuit().kind in ("literature", "ambiguous")
    assert len(read_truth("wang-2022-ioi").circuit().heads) == 26
    with pytest.raises(UnknownName, match="mechrl-ioi"):
        load_task("mechrl-io")


def test_schemas_are_derived() -> None:
    for model in (TaskFile, Truth):
        schema = json.dumps(model.model_json_schema())
        assert "additionalProperties" in schema


def test_a_model_must_read_text(tmp_path: Path) -> None:
    task, model = read_task(written(tmp_path, GOOD)), copying_model(1)

    class Nothing(Words):
        def __len__(self) -> Any:
            return 1

    for construction, said in ((None, "has no tokenizer"), (Nothing(), "knows 1 tokens")):
        other = Model("mute", 1, 64, model.transformer, construction=construction)
        with pytest.raises(InvalidSpec, match=said):
            task.prompts(other, 2, np.random.default_rng(0))
    long = GOOD.replace("w20", "w20 " * 20)
    with pytest.raises(InvalidSpec, match="a prompt has 25 tokens; copying reads 16"):
        prompts_of(written(tmp_path, long))


def test_planted_words(tmp_path: Path) -> None:
    text = GOOD.replace("w1 w2 w3 w4 w5 w6", "name0 name1 name2 name3")
    text = text.replace("w20", "word0").replace("w21", "end")
    task, planted = read_task(written(tmp_path, text)), load_model("planted-easy")
    check_task(task, planted)
    with pytest.raises(InvalidSpec, match="has no word 'name99'; it has name0 to name11"):
        read_task(written(tmp_path, text.replace("name3", "name99"))).prompts(
            planted, 4, np.random.default_rng(0)
        )
