"""Prompts from a task's file: words are drawn, texts written, answers weighed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from circuitbench.core.errors import InvalidSpec
from circuitbench.tasks.base import Prompts, filled_up
from circuitbench.tasks.text.schema import (
    LAST,
    PLACE,
    SLOT,
    VOCABULARY,
    AnswerSet,
    Pair,
    TaskFile,
    Template,
)
from circuitbench.tasks.tokenizer import Text

TRIES = 500  # draws of one prompt until its words fit together
SHOWN = 8  # offenders that a message lists

Places = list[tuple[str, int, int]]  # a slot, and where in a text (or among tokens) it stands


@dataclass(frozen=True)
class Drawn:
    """One prompt: tokens without BOS, the weight of each answer token, and where things are.

    ``spans`` are positions among the tokens, ``[first, behind the last)``.
    """

    text: str
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    weights: Mapping[int, float]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    same_answer: bool = False


class Draws:
    """A file's prompts in the tokens of one model.

    Args:
        file: what to ask.
        text: the tokenizer.
        where: the file's name, for messages.

    Raises:
        InvalidSpec: words that must be one token are several, and the file does not say to drop
            them; lists every one, with the number of its tokens.
    """

    def __init__(self, file: TaskFile, text: Text, where: str) -> None:
        self.file, self.text, self.where = file, text, where
        self._templates = [file.form(template) for template in file.templates]
        self._lists = {name: list(file.forms_of(name)) for name in file.words}
        if self._templates:
            self._keep_whole_words()

    def draw(self, n: int, rng: np.random.Generator) -> list[Drawn]:
        """``n`` prompts, a pure function of the generator's state.

        Raises:
            InvalidSpec: a counterfactual that leaves the prompt or its answer as it was, or that
                has another number of tokens; lists the offenders.
        """
        if self.file.pairs:
            turns = [rng.permutation(len(self.file.pairs)) for _ in range(-(-n // self._n_pairs))]
            drawn = [self._pair(self.file.pairs[i]) for i in np.concatenate(turns)[:n]]
        else:
            drawn = [self._one(rng) for _ in range(n)]
        self._check(drawn)
        return drawn

    def prompts(self, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts of :meth:`draw` as tensors, BOS first, read at their last token."""
        drawn = self.draw(n, rng)
        bos = () if self.text.bos is None else (self.text.bos,)
        tokens, lengths = filled_up([(*bos, *one.clean) for one in drawn])
        counterfactual, _ = filled_up([(*bos, *one.corrupted) for one in drawn])
        read = torch.full((n,), tokens.shape[1]) if lengths is None else lengths
        width = max(len(one.weights) for one in drawn)
        ids, weights = np.zeros((n, 1, width), np.int64), np.zeros((n, 1, width), np.float32)
        for row, one in enumerate(drawn):
            ids[row] = next(iter(one.weights))  # of no weight where it fills up
            ids[row, 0, : len(one.weights)] = list(one.weights)
            weights[row, 0, : len(one.weights)] = list(one.weights.values())
        spans = {
            name: torch.tensor([one.spans[name] for one in drawn]) + len(bos)
            for name in drawn[0].spans
        }
        return Prompts(
            tokens=tokens,
            counterfactual=counterfactual,
            positions=(read - 1)[:, None],
            token_ids=torch.from_numpy(ids),
            weights=torch.from_numpy(weights),
            choices=torch.from_numpy(self._choices(drawn)),
            lengths=lengths,
            spans=spans or None,
        )

    @property
    def _n_pairs(self) -> int:
        return len(self.file.pairs)

    # One prompt -----------------------------------------------------------------------------

    def _one(self, rng: np.random.Generator) -> Drawn:
        reason = ""
        for _ in range(TRIES):
            template = self._templates[int(rng.integers(len(self._templates)))]
            if self.file.written_in == "tokens":
                return self._of_tokens(template, rng)
            words = self._words(template, rng)
            drawn, reason = self._of_text(template, words)
            if drawn is not None:
                return drawn
        raise InvalidSpec(f"{self.where}: no prompt in {TRIES} draws fits; the last: {reason}")

    def _words(self, template: Template, rng: np.random.Generator) -> dict[str, tuple[str, ...]]:
        """Different words of each list for the slots that a template uses."""
        used = self._used(template)
        words: dict[str, tuple[str, ...]] = {}
        for name, forms in self._lists.items():
            slots = [slot for slot in used if self.file.slots[slot] == name]
            drawn = rng.choice(len(forms), len(slots), replace=False) if slots else ()
            words |= {slot: forms[i] for slot, i in zip(slots, drawn, strict=True)}
        return words

    def _used(self, template: Template) -> list[str]:
        """The slots of lists that a template needs, in the order of the file."""
        texts = [template.text, *template.clean.values(), *template.corrupted.values()]
        texts += [text for group in self.file.differ for text in group]
        used = set()
        for answer in (template.answer, template.wrong, template.corrupted_answer):
            if isinstance(answer, AnswerSet):
                used |= {answer.above, answer.upto}
            elif answer is not None:
                texts += [answer] if isinstance(answer, str) else answer
        used |= {slot for text in texts for slot, _, _ in SLOT.findall(text)}
        return [slot for slot in self.file.slots if slot in used]

    def _of_text(
        self, template: Template, words: Mapping[str, tuple[str, ...]]
    ) -> tuple[Drawn | None, str]:
        """A prompt with these words, or why there is none."""
        for group in self.file.differ:
            texts = [written(text, words)[0] for text in group]
            if len(set(texts)) < len(texts):
                return None, f"{texts} must differ"
        clean, places = written(template.text, words, template.clean)
        corrupted, others = written(template.text, words, template.corrupted)
        for text, found in ((clean, places), (corrupted, others)):
            split = self._split(text, found)
            if split and self.file.split == "drop":
                return None, split
            if split and self.file.split == "refuse":
                raise InvalidSpec(f"{self.where}: {split}; see 'split'")
        tokens, other = self.text.encode(clean), self.text.encode(corrupted)
        if len(tokens) != len(other) and self.file.split == "drop":
            return None, f"{clean!r} and its counterfactual differ in their number of tokens"
        right = self._answers(template.answer, words, template.clean)
        wrong = self._answers(template.wrong, words, template.clean)
        if not right or not wrong:
            return None, f"{clean!r} has no {'wrong' if right else 'right'} answer"
        said = template.corrupted_answer
        return Drawn(
            clean,
            tokens,
            other,
            _weights(right, wrong, self.where, clean),
            self._spans(clean, places),
            said is not None and set(self._answers(said, words, template.corrupted)) == set(right),
        ), ""

    def _of_tokens(self, template: Template, rng: np.random.Generator) -> Drawn:
        """A prompt whose words are tokens, all slots of a list filled differently."""
        times: dict[str, int] = dict.fromkeys(self._used(template), 1)
        for slot, _, many in SLOT.findall(template.text):
            if slot in times and many:
                times[slot] = max(times[slot], int(many))
        drawn: dict[str, list[int]] = {}
        for name in dict.fromkeys(self.file.slots[slot] for slot in times):
            slots = [slot for slot in times if self.file.slots[slot] == name]
            pool = self._tokens_of(name)
            needed = sum(times[slot] for slot in slots)
            if needed > len(pool):
                raise InvalidSpec(f"{self.where}: {name} has {len(pool)} tokens, not {needed}")
            found = rng.choice(pool, needed, replace=False).tolist()
            for slot in slots:
                drawn[slot] = [found.pop() for _ in range(times[slot])]

        def tokens(text: str, fills: Mapping[str, str]) -> tuple[list[int], Places]:
            out: list[int] = []
            places: Places = []
            for piece in text.split():
                match, start = SLOT.fullmatch(piece), len(out)
                if match is None:
                    out.append(self._token(f" {piece}"))
                elif match[1] in fills:
                    out += tokens(fills[match[1]], {})[0]
                else:
                    out += drawn[match[1]][: int(match[3] or 1)]
                if match is not None:
                    places.append((match[1], start, len(out)))
            return out, places

        clean, places = tokens(template.text, template.clean)
        corrupted, _ = tokens(template.text, template.corrupted)
        right, wrong = (
            [token for text in _texts(answer) for token in tokens(text, template.clean)[0]]
            for answer in (template.answer, template.wrong)
        )
        said = template.corrupted_answer
        label = f"{template.text} = {clean[:12]}"
        return Drawn(
            label,
            tuple(clean),
            tuple(corrupted),
            _weights(right, wrong, self.where, label),
            self._named(places, len(clean)),
            said is not None and tokens(said, template.corrupted)[0] == right,
        )

    def _pair(self, pair: Pair) -> Drawn:
        def ids(answer: str | int | Sequence[str | int]) -> list[int]:
            many = [answer] if isinstance(answer, str | int) else answer
            return [one if isinstance(one, int) else self._token(one) for one in many]

        right, clean = ids(pair.answer), self.text.encode(pair.clean)
        said = pair.corrupted_answer
        return Drawn(
            pair.clean,
            clean,
            self.text.encode(pair.corrupted),
            _weights(right, ids(pair.wrong), self.where, pair.clean),
            self._named([], len(clean)),
            said is not None and ids(said) == right,
        )

    # Answers and places ---------------------------------------------------------------------

    def _answers(
        self,
        answer: str | Sequence[str] | AnswerSet | None,
        words: Mapping[str, tuple[str, ...]],
        fills: Mapping[str, str],
    ) -> list[int]:
        if isinstance(answer, AnswerSet):
            slot = answer.above if answer.above is not None else answer.upto
            value = written(f"{{{slot}}}", words, fills)[0]
            order = [forms[0] for forms in self.file.forms_of(answer.words)]
            if value not in order:
                raise InvalidSpec(
                    f"{self.where}: {slot} holds {value!r}, which is no word of {answer.words}"
                )
            at = order.index(value) + 1
            meant = order[at:] if answer.above is not None else order[:at]
            whole = {forms[0] for forms in self._lists[answer.words]}
            return [self._token(answer.prefix + word) for word in meant if word in whole]
        return [self._token(written(text, words, fills)[0]) for text in _texts(answer)]

    def _token(self, text: str) -> int:
        """The one token of an answer."""
        tokens = self.text.continuation(text)
        if len(tokens) != 1:
            raise InvalidSpec(
                f"{self.where}: {text!r} must be one token, but this tokenizer makes "
                f"{len(tokens)} of it"
            )
        return tokens[0]

    def _tokens_of(self, name: str) -> np.ndarray:
        """The tokens that a list stands for, where templates are written in tokens."""
        if name == VOCABULARY:
            return self.text.ordinary
        return np.array([self._token(f" {forms[0]}") for forms in self._lists[name]])

    def _spans(self, text: str, places: Places) -> dict[str, tuple[int, int]]:
        """Named places of a text as positions among its tokens."""
        if not self.file.spans:
            return {}
        full = self.text.encode(text)

        def upto(end: int) -> int:
            head = self.text.encode(text[:end])
            if full[: len(head)] != head:
                raise InvalidSpec(
                    f"{self.where}: a token of {text!r} reaches over the border of a place that "
                    f"has a name, at {text[:end][-20:]!r}"
                )
            return len(head)

        found = [
            (slot, upto(len(text[:start].rstrip(" "))), upto(end)) for slot, start, end in places
        ]
        return self._named(found, len(full))

    def _named(self, places: Places, count: int) -> dict[str, tuple[int, int]]:
        spans = {}
        for name, text in self.file.spans.items():
            if text == LAST:
                spans[name] = (count - 1, count)
                continue
            match = PLACE.fullmatch(text)
            assert match is not None
            nth, later = int(match[2] or 1), int(match[3] or 0)
            found = [(start, end) for slot, start, end in places if slot == match[1]]
            if nth > len(found):
                raise InvalidSpec(
                    f"{self.where}: spans.{name}: {match[1]!r} stands in a prompt {len(found)} "
                    f"times, not {nth}"
                )
            start, end = found[nth - 1]
            spans[name] = (end - 1 + later, end + later) if later else (start, end)
            if spans[name][1] > count:
                raise InvalidSpec(f"{self.where}: spans.{name} ({text}) is behind the prompt")
        return spans

    # What is refused ------------------------------------------------------------------------

    def _check(self, drawn: Sequence[Drawn]) -> None:
        """Counterfactuals differ from their prompts, in as many tokens, and in the answer."""
        for what, wrong in (
            ("the counterfactual is the prompt", [d for d in drawn if d.clean == d.corrupted]),
            ("the counterfactual has the same answer", [d for d in drawn if d.same_answer]),
            (
                "the counterfactual has another number of tokens",
                [d for d in drawn if len(d.clean) != len(d.corrupted)],
            ),
        ):
            if wrong:
                shown = "; ".join(
                    repr(one.text)
                    if len(one.clean) == len(one.corrupted)
                    else f"{one.text!r} ({len(one.clean)} and {len(one.corrupted)} tokens)"
                    for one in list({one.text: one for one in wrong}.values())[:SHOWN]
                )
                raise InvalidSpec(
                    f"{self.where}: {what} in {len(wrong)} of {len(drawn)} prompts: {shown}"
                )
        lengths = {len(one.clean) for one in drawn}
        if min(lengths) == 0:
            raise InvalidSpec(f"{self.where}: a prompt has no token")

    def _split(self, text: str, places: Places) -> str:
        """What is wrong with a slot right behind another one; empty if nothing is."""
        if self.file.split == "allow":
            return ""
        last = None
        for slot, start, end in places:
            between, last = None if last is None else text[last:start], end
            if between is None or " " in between or "\n" in between:
                continue  # seen to before any draw
            before, after = self.text.encode(text[:start]), self.text.encode(text[:end])
            if after[:-1] != before:
                return f"{slot} is not one token in {text[:end][-20:]!r}"
        return ""

    def _keep_whole_words(self) -> None:
        """Drop the words that the tokenizer splits, or refuse them."""
        split: dict[str, dict[str, int]] = {}
        for name, lead, form, answer in self._contexts():
            if self.file.split == "allow" and not answer:
                continue
            for forms in self._lists[name]:
                word = _form(forms, form)
                whole = lead + word
                count = len(self.text.continuation(whole))
                if lead.strip():  # the word begins inside of what stands before it
                    inner = self.text.behind(lead, word)
                    count = len(inner) if inner is not None else len(self.text.encode(whole))
                if count != 1:
                    split.setdefault(name, {})[forms[0]] = count
        if self.file.split != "drop" and split:
            said = "; ".join(
                f"{name}: {_listed(f'{word!r} ({n})' for word, n in words.items())}"
                for name, words in split.items()
            )
            raise InvalidSpec(
                f"{self.where}: the tokenizer of {self.text.name} splits words that must be one "
                f"token (into so many): {said}; take them out, or say 'split: drop'"
            )
        for name, words in split.items():
            self._lists[name] = [x for x in self._lists[name] if x[0] not in words]
        for template in self._templates:
            used = self._used(template)
            for name, left in self._lists.items():
                needed = sum(self.file.slots[slot] == name for slot in used)
                if needed > len(left):
                    raise InvalidSpec(
                        f"{self.where}: {name} has {len(left)} words that are one token of "
                        f"{self.text.name}, not {needed}"
                        + (f"; split: {_listed(split[name])}" if name in split else "")
                    )

    def _contexts(self) -> Iterator[tuple[str, str, str, bool]]:
        """Lists, what stands before their words, which form, and whether it is an answer."""
        found: dict[tuple[str, str, str, bool], None] = {}
        if self.file.written_in == "tokens":
            lists = dict.fromkeys(self.file.slots.values())
            yield from ((name, " ", "", True) for name in lists if name != VOCABULARY)
            return
        for template in self._templates:
            texts = [(template.text, fills) for fills in (template.clean, template.corrupted)]
            for text, fills in texts:
                for slot, lead, form in _leads(_unfolded(text, fills)):
                    if slot in self.file.slots:
                        found[self.file.slots[slot], lead, form, False] = None
            for answer in (template.answer, template.wrong):
                if isinstance(answer, AnswerSet):
                    found[answer.words, answer.prefix, "", True] = None
                    continue
                for text in _texts(answer):
                    for slot, lead, form in _leads(_unfolded(text, template.clean)):
                        found[self.file.slots[slot], lead, form, True] = None
        yield from found

    def _choices(self, drawn: Sequence[Drawn]) -> np.ndarray:
        """The tokens among which an answer must win."""
        if self.file.choices == VOCABULARY or (
            self.file.choices is None and self.file.written_in == "tokens"
        ):
            return self.text.ordinary
        mine = {token for one in drawn for token in one.weights}
        return np.array(sorted(mine | self._possible), dtype=np.int64)

    @cached_property
    def _possible(self) -> set[int]:
        """All tokens that may be an answer, right or wrong, whatever is drawn."""
        if self.file.choices is not None:
            return {self._token(f" {forms[0]}") for forms in self._lists[self.file.choices]}
        if self.file.pairs:
            return {t for pair in self.file.pairs for t in self._pair(pair).weights}
        return {
            token
            for name, lead, form, answer in self._contexts()
            if answer
            for forms in self._lists[name]
            if len(tokens := self.text.continuation(lead + _form(forms, form))) == 1
            for token in tokens
        }


def written(
    text: str, words: Mapping[str, tuple[str, ...]], fills: Mapping[str, str] | None = None
) -> tuple[str, Places]:
    """A text with its slots filled, and where each of them stands."""
    out, places, last = "", [], 0
    for match in SLOT.finditer(text):
        out += text[last : match.start()]
        slot, last = match[1], match.end()
        if fills is not None and slot in fills:
            value, _ = written(fills[slot], words)
        else:
            value = _form(words[slot], match[2] or "")
        places.append((slot, len(out), len(out) + len(value)))
        out += value
    return out + text[last:], places


def _form(forms: tuple[str, ...], form: str) -> str:
    if form == "initial":
        return forms[0][0]
    return forms[int(form) - 1 if form else 0]


def _unfolded(text: str, fills: Mapping[str, str]) -> str:
    """A text in which other slots than those of lists are replaced by what fills them."""
    return SLOT.sub(lambda match: fills.get(match[1], match[0]), text)


def _leads(text: str) -> Iterator[tuple[str, str, str]]:
    """Slots, what stands directly before them (with the last space), and their form.

    Those that follow another slot directly are left out: that depends on what fills it.
    """
    last = 0
    for match in SLOT.finditer(text):
        before = text[last : match.start()]
        space = max(before.rfind(" "), before.rfind("\n"))
        if space >= 0 or last == 0:
            lead = before[max(space, 0) :]
            yield match[1], lead if lead.strip() or lead == " " else "", match[2] or ""
        last = match.end()


def _texts(answer: str | Sequence[str] | AnswerSet | None) -> Sequence[str]:
    assert not isinstance(answer, AnswerSet)
    return [answer] if isinstance(answer, str) else list(answer or ())


def _weights(right: Sequence[int], wrong: Sequence[int], where: str, text: str) -> dict[int, float]:
    """Mean of the right answers minus mean of the wrong ones."""
    right, wrong = list(dict.fromkeys(right)), list(dict.fromkeys(wrong))
    if set(right) & set(wrong):
        raise InvalidSpec(f"{where}: an answer of {text!r} is right and wrong")
    return {t: 1 / len(right) for t in right} | {t: -1 / len(wrong) for t in wrong}


def _listed(items: Iterable[str]) -> str:
    every = list(items)
    more = len(every) - 3 * SHOWN
    return ", ".join(every[: 3 * SHOWN]) + (f" and {more} more" if more > 0 else "")
