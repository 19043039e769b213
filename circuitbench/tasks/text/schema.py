"""What a task's file says. Frozen values; the JSON schema follows from them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from circuitbench.core.circuit import Circuit, Edge, Head, Role, TruthKind
from circuitbench.core.errors import CircuitBenchError, nearest
from circuitbench.models.base import Model
from circuitbench.models.limits import Limits

SLOT = re.compile(r"\{(\w+)(?:\.(\d+|initial))?(?:\*(\d+))?\}")
"""``{A}``, ``{noun.2}`` (its second form), ``{A.initial}`` (its first letter), ``{x*57}``."""
VOCABULARY = "vocabulary"
PLACE = re.compile(r"(\w+)(?:#(\d+))?(?:\+(\d+))?")
"""A place in a prompt: ``A``, ``A#2`` (where it stands the second time), ``A+1``, ``last``."""
LAST = "last"


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_as_many(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


Word = Annotated[str, BeforeValidator(_number_as_text), Field(min_length=1, max_length=200)]
Names = Annotated[tuple[Word, ...], BeforeValidator(_one_as_many)]
"""Words of a list, or one text of words with spaces between them."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Numbers(_Frozen):
    """Numbers as words: ``{from: 2, to: 98, digits: 2}`` is 02, 03 and so on to 98."""

    first: int = Field(alias="from", ge=0)
    last: int = Field(alias="to", ge=0, le=10**6)
    digits: int = Field(1, ge=1, le=9)

    def words(self) -> tuple[tuple[str, ...], ...]:
        """Each number as a word of one form."""
        return tuple((f"{n:0{self.digits}}",) for n in range(self.first, self.last + 1))


class AnswerSet(_Frozen):
    """Those words of a list that stand behind (or not behind) the word in a slot."""

    words: str = Field(description="A list of words, in order.")
    above: str | None = Field(None, description="A slot: the words after its word are meant.")
    upto: str | None = Field(None, description="A slot: its word and those before it are meant.")
    prefix: str = Field("", description="What stands before each word, e.g. a space.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.above is None) == (self.upto is None):
            raise ValueError("say either above or upto, and a slot")
        return self


Answer = str | tuple[str, ...] | AnswerSet
"""Text that follows the prompt, with slots in it; or several such; or words of a list."""


class Template(_Frozen):
    """One way to say it; what is not given here is taken from the file."""

    text: str
    clean: dict[str, Word] = Field(default_factory=dict)
    corrupted: dict[str, Word] = Field(default_factory=dict)
    answer: Answer | None = None
    wrong: Answer | None = None
    corrupted_answer: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


class Pair(_Frozen):
    """One prompt written out, with its counterfactual. Answers are texts, or ids of tokens."""

    clean: str = Field(min_length=1)
    corrupted: str = Field(min_length=1)
    answer: str | int | tuple[str | int, ...]
    wrong: str | int | tuple[str | int, ...]
    corrupted_answer: str | int | None = None


class Control(_Frozen):
    """Ordinary text on which general damage is seen; without it, the text that ships with us."""

    file: str | None = Field(None, description="A text file, beside this one.")
    text: str | None = Field(None, description="The text itself.")
    span: int = Field(60, ge=2, le=4096, description="Tokens of a span, BOS included.")

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.file is not None and self.text is not None:
            raise ValueError("give a file or a text, not both")
        return self


class TruthRole(_Frozen):
    """The heads that do one job."""

    heads: Names = Field(description="As layer.head, e.g. 9.6.")
    sign: Literal[1, -1] = 1
    needed: int = Field(0, ge=0, description="How many must be found; 0: all of them.")
    position: str = Field("", description="Where they act, in words.")
    shows: str = ""

    @field_validator("heads")
    @classmethod
    def _are_heads(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        for text in heads:
            _parsed(Head.parse, text)
        return heads


class Truth(_Frozen):
    """A circuit that somebody stated, of one model; several may be stated of one behaviour."""

    source: str = Field(min_length=1, description="Who says so, and where to read it.")
    kind: TruthKind
    models: Names = Field(description="Names of the models it is of, without owner and variant.")
    layers: int = Field(ge=1)
    heads: int = Field(ge=1, description="Per layer.")
    revision: str = Field("", description="Of the model's weights.")
    version: Word = "1"
    ablations: Names = ()
    roles: dict[str, TruthRole]
    disputed: Names = Field((), description="Heads that others name, not counted as true.")
    mlps: tuple[int, ...] = ()
    edges: Names | None = None
    edge_ablations: Names = ()
    blind_spots: tuple[str, ...] = ()

    @field_validator("disputed")
    @classmethod
    def _are_heads(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        for text in heads:
            _parsed(Head.parse, text)
        return heads

    @field_validator("edges")
    @classmethod
    def _are_edges(cls, edges: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for text in edges or ():
            _parsed(Edge.parse, text)
        return edges

    @model_validator(mode="after")
    def _fits(self) -> Self:
        named = [head for role in self.roles.values() for head in role.heads]
        for head in map(Head.parse, (*named, *self.disputed)):
            if head.layer >= self.layers or head.head >= self.heads:
                raise ValueError(f"head {head} is outside {self.layers} x {self.heads}")
        both = sorted(set(named) & set(self.disputed))
        if both:
            raise ValueError(f"{' '.join(both)} cannot be true and disputed")
        for name, role in self.roles.items():
            if role.needed > len(role.heads):
                raise ValueError(f"role {name} has {len(role.heads)} heads, not {role.needed}")
        return self

    def is_of(self, model: Model) -> bool:
        """Whether this is a circuit of the model: by its name and its grid of heads."""
        name = model.name.removeprefix("hf:").partition("@")[0].rpartition("/")[2]
        return name in self.models and (model.n_layers, model.n_heads) == (self.layers, self.heads)

    def circuit(self) -> Circuit:
        """As the evaluator sees it."""
        roles = {
            name: Role(tuple(map(Head.parse, r.heads)), r.needed, r.sign, r.shows or r.position)
            for name, r in self.roles.items()
        }
        spots = self.blind_spots
        if self.disputed:
            spots = (*spots, f"disputed, and not counted as true: {' '.join(self.disputed)}")
        revision = f"; of revision {self.revision}" if self.revision else ""
        return Circuit(
            roles=roles,
            source=self.source + revision,
            kind=self.kind,
            ablations=self.ablations,
            version=self.version,
            edges=None if self.edges is None else frozenset(map(Edge.parse, self.edges)),
            edge_ablations=self.edge_ablations,
            mlps=self.mlps,
            blind_spots=spots,
        )


class TaskFile(_Frozen):
    """A behaviour: how to ask for it, what is right and wrong, and what is known of its circuit."""

    title: str = Field(min_length=1, max_length=100)
    about: str = ""
    family: str = "Behaviour"
    paper: str = ""
    link: str = ""
    version: Word = "1"
    model: str | None = Field(None, description="The model it runs on if none is asked for.")
    written_in: Literal["text", "tokens"] = Field(
        "text", description="tokens: every word of a template is a token or a slot for one."
    )
    templates: tuple[Template, ...] = ()
    words: dict[str, Numbers | tuple[Names, ...]] = Field(
        default_factory=dict, description="Lists of words; a word of several forms is a list."
    )
    slots: dict[str, str] = Field(
        default_factory=dict,
        description="Which list fills a slot. Slots of one list get different words.",
    )
    clean: dict[str, Word] = Field(default_factory=dict, description="What else fills slots.")
    corrupted: dict[str, Word] = Field(
        default_factory=dict, description="What fills them in the counterfactual instead."
    )
    answer: Answer | None = None
    wrong: Answer | None = None
    corrupted_answer: str | None = Field(
        None, description="The right answer to the counterfactual; it must be another one."
    )
    differ: tuple[tuple[str, ...], ...] = Field(
        (), description="Texts with slots that must be different, or the words are drawn again."
    )
    choices: str | None = Field(
        None, description="A list among whose words the answer must win, or vocabulary."
    )
    pairs: tuple[Pair, ...] = Field((), description="Instead of templates: prompts written out.")
    pairs_file: str | None = Field(None, description="CSV or JSON lines beside this file.")
    split: Literal["refuse", "drop", "allow"] = Field(
        "refuse", description="What to do with a word that the tokenizer splits."
    )
    spans: dict[str, str] = Field(
        default_factory=dict, description="Names of places: a slot, A#2, A+1 or last."
    )
    control: Control = Control(file=None, text=None, span=60)
    truths: dict[str, Truth | None] = Field(
        default_factory=dict,
        description="By name; without content, the truth of that name that ships with us.",
    )
    truth: str | None = Field(None, description="Which of them is scored; default: the first.")
    limits: dict[str, float] = Field(default_factory=dict, description="Of the health gate.")

    @field_validator("words", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        """A list written as one text of words is taken apart; a word is a list of one form."""
        if not isinstance(value, dict):
            return value
        return {
            name: [[form] if isinstance(form, str | int) else form for form in _one_as_many(words)]
            if isinstance(words, str | list | tuple)
            else words
            for name, words in value.items()
        }

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, limits: dict[str, float]) -> dict[str, float]:
        _parsed(Limits.parse, limits)
        return limits

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        ways = [bool(self.templates), bool(self.pairs), self.pairs_file is not None]
        if sum(ways) != 1:
            raise ValueError("give templates, or pairs, or pairs_file: one of the three")
        if self.truth is not None and self.truth not in self.truths:
            raise ValueError(f"truth: {nearest(self.truth, self.truths)}")
        for place in self.spans.values():
            if PLACE.fullmatch(place) is None:
                raise ValueError(f"spans: {place!r} is no place; expected A, A#2, A+1 or last")
        if self.templates:
            self._check_slots()
        return self

    def form(self, template: Template) -> Template:
        """A template with everything that the file gives for all of them."""
        return Template(
            text=template.text,
            clean={**self.clean, **template.clean},
            corrupted={**self.corrupted, **template.corrupted},
            answer=self.answer if template.answer is None else template.answer,
            wrong=self.wrong if template.wrong is None else template.wrong,
            corrupted_answer=template.corrupted_answer or self.corrupted_answer,
        )

    def forms_of(self, words: str) -> tuple[tuple[str, ...], ...]:
        """The words of a list, each with its forms."""
        found = self.words[words]
        return found.words() if isinstance(found, Numbers) else found

    def _check_slots(self) -> None:
        lists = [*self.words, VOCABULARY]
        for slot, words in self.slots.items():
            if words not in lists:
                raise ValueError(f"slots.{slot}: no list {words!r}; {nearest(words, lists)}")
            if words == VOCABULARY and self.written_in != "tokens":
                raise ValueError(f"slots.{slot}: {VOCABULARY} needs 'written_in: tokens'")
        for name in self.words:
            if not self.forms_of(name):
                raise ValueError(f"words.{name} is empty")
        if self.choices is not None and self.choices not in lists:
            raise ValueError(f"choices: no list {self.choices!r}; {nearest(self.choices, lists)}")
        for number, given in enumerate(self.templates, start=1):
            where = f"template {number}"
            template = self.form(given)
            if set(template.clean) != set(template.corrupted):
                odd = sorted(set(template.clean) ^ set(template.corrupted))
                raise ValueError(f"{where}: {', '.join(odd)} must be filled clean and corrupted")
            if not template.clean:
                raise ValueError(
                    f"{where}: nothing differs in the counterfactual; fill a slot in clean and "
                    "in corrupted"
                )
            changed = {match[1] for match in SLOT.finditer(template.text)} & set(template.clean)
            if not changed:
                raise ValueError(f"{where} has none of the slots {', '.join(template.clean)}")
            known = [*self.slots, *template.clean]
            texts = [template.text, *filter(None, [template.corrupted_answer])]
            for kind, answer in (("answer", template.answer), ("wrong", template.wrong)):
                if answer is None:
                    raise ValueError(f"{where} has no {kind}")
                if isinstance(answer, AnswerSet):
                    self._check_answer_set(answer, f"{where}: {kind}", known)
                else:
                    texts += [answer] if isinstance(answer, str) else answer
            for text in (*texts, *(x for group in self.differ for x in group)):
                self._check_text(text, known, where)
            for text in (*template.clean.values(), *template.corrupted.values()):
                self._check_text(text, list(self.slots), where)
            if self.written_in == "tokens":
                for piece in template.text.split():
                    if "{" in piece and SLOT.fullmatch(piece) is None:
                        raise ValueError(
                            f"{where}: {piece!r} is not one token; put spaces around slots"
                        )

    def _check_text(self, text: str, known: list[str], where: str) -> None:
        """A text's slots are there, and their words have the forms that it asks for."""
        for slot, form, times in SLOT.findall(text):
            if slot not in known:
                raise ValueError(f"{where}: no slot {slot!r}; {nearest(slot, known)}")
            if times and self.written_in != "tokens":
                raise ValueError(f"{where}: {{{slot}*{times}}} needs 'written_in: tokens'")
            if form and slot not in self.slots:
                raise ValueError(f"{where}: {slot} is no word of a list, so it has no {form}")
            if form and self.written_in == "tokens":
                raise ValueError(f"{where}: a token has no {form}")
            if form.isdigit():
                words = self.slots[slot]
                short = [w for w in self.forms_of(words) if not 0 < int(form) <= len(w)]
                if short:
                    raise ValueError(f"{where}: {short[0][0]!r} of {words} has no form {form}")
        left = SLOT.sub("", text)
        if "{" in left or "}" in left:
            raise ValueError(
                f"{where}: {text!r} holds braces that are no slot; expected {{A}}, {{A.2}}, "
                "{A.initial} or {A*3}"
            )

    def _check_answer_set(self, answer: AnswerSet, where: str, known: list[str]) -> None:
        """A set of answers is made of a list there is, and of a slot there is."""
        if self.written_in == "tokens":
            raise ValueError(f"{where}: words above another need 'written_in: text'")
        if answer.words not in self.words:
            raise ValueError(
                f"{where}: no list {answer.words!r}; {nearest(answer.words, self.words)}"
            )
        slot = answer.above if answer.above is not None else answer.upto
        if slot not in known:
            raise ValueError(f"{where}: no slot {slot!r}; {nearest(str(slot), known)}")


def _parsed(parse: Any, value: Any) -> None:
    """Turn an error of ours into one that pydantic reports with the field."""
    try:
        parse(value)
    except CircuitBenchError as error:
        raise ValueError(str(error)) from error
