"""What is asked for: one run, fully stated. Everything that can change a number is in here."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.oracle.ablations import AblationName
from circuitbench.oracle.engine.devices import Device, Precision
from circuitbench.runs.yaml_text import plain_yaml

Functional = Literal["none", "quick", "full"]


@dataclass(frozen=True)
class RunSpec:
    """One run of one method on one task.

    Args:
        method, task: names of registered plug-ins; a task may be a file (``./mine.yaml``).
        model: ``name`` or ``name@variant``; None means the task's default model.
        seed: root of every random draw (see :mod:`circuitbench.core.seeding`).
        budget: how many oracle queries discovery may spend; None means no limit.
        ablation: what replaces a switched-off head's output.
        weight: price of a nat of control damage in the contrastive reward.
        batch_size: prompts (and control spans) per batch.
        device: ``auto`` takes CUDA where there is one.
        precision: the engine's arithmetic (see docs/oracle.md).
        functional: how thoroughly the committed set is tested without any truth, after
            discovery and on a meter of its own (see
            :mod:`circuitbench.evaluation.without_truth.measurements`).
        truth: of a task that is a file, which of its circuits is scored, or ``none``; None is
            the file's choice.
        control: a text file to cut control spans from; None is the task's own text.
        hyperparameters: changes to the method's settings, by dotted name (``ppo.gamma``).

    Raises:
        InvalidSpec: a value of the wrong type or out of range; names it.
    """

    method: str = "rl-ppo"
    task: str = "induction"
    model: str | None = None
    seed: int = 0
    budget: int | None = None
    ablation: AblationName = "zero"
    weight: float = 1.0
    batch_size: int = 32
    device: Device = "auto"
    precision: Precision = "exact"
    functional: Functional = "quick"
    truth: str | None = None
    control: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise InvalidSpec(_explain(error)) from error

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InvalidSpec(f"seed must be 0 or more, not {self.seed}")
        if self.budget is not None and self.budget < 1:
            raise InvalidSpec(
                f"budget must cover at least one query, not {self.budget}; "
                "leave it out for no limit"
            )
        if self.batch_size < 2:
            raise InvalidSpec(f"batch_size must be 2 or more, not {self.batch_size}")
        if not 0 <= self.weight < float("inf"):
            raise InvalidSpec(f"weight must be a finite number of 0 or more, not {self.weight}")


SPEC_KEYS = tuple(f.name for f in dataclasses.fields(RunSpec))
FILE_KEYS = (*SPEC_KEYS, "out")  # a file may also say where the records go


def build_spec(*layers: Mapping[str, Any]) -> RunSpec:
    """A spec from layers of settings, later ones first in rank (defaults < file < command line).

    Hyperparameters of the layers are merged key by key, those of groups under dotted names.

    Raises:
        UnknownName: a key that no spec has.
        InvalidSpec: a value of the wrong type or out of range.
    """
    settings: dict[str, Any] = {}
    hyperparameters: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key not in SPEC_KEYS:
                raise UnknownName("setting", key, SPEC_KEYS)
            if key != "hyperparameters":
                settings[key] = value
            elif isinstance(value, Mapping):
                hyperparameters.update(dotted(value))
            else:
                raise InvalidSpec(
                    f"hyperparameters must be a mapping of names to values, not {value!r}"
                )
    return RunSpec(**settings, hyperparameters=hyperparameters)


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a YAML file; raises :class:`InvalidSpec` naming the file and the fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read config file {path}: {_reason(error)}") from error
    content = plain_yaml(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidSpec(
            f"{path} must hold settings as 'key: value' lines; valid keys: {', '.join(FILE_KEYS)}"
        )
    for key in content:
        if key not in FILE_KEYS:
            raise InvalidSpec(f"{path}: {UnknownName('setting', key, FILE_KEYS)}")
    return content


def parse_assignment(text: str) -> tuple[str, Any]:
    """Read ``key=value``; the value is read as YAML (``3``, ``0.1``, ``true``, ``[1, 2]``)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidSpec(f"--set takes key=value, not {text!r}")
    try:
        return key.strip(), plain_yaml(value, key.strip())
    except InvalidSpec as error:
        raise InvalidSpec(f"--set {key.strip()}: {value!r} is not a valid value") from error


def configure(cls: type[Any], overrides: Mapping[str, Any], owner: str) -> Any:
    """An instance of a dataclass with some settings changed, checked against their types.

    Args:
        cls: its fields are settings; one whose default is a dataclass is a group of settings,
            and changing some of them leaves the group's others as they are by default.
        overrides: by dotted name (``ppo.gamma``), or nested, or both.
        owner: whose settings they are, for messages.

    Raises:
        UnknownName: there is no such setting; names the nearest of all groups.
        InvalidSpec: a value of the wrong type or out of range, or a value for a whole group.
    """
    values = _changed(cls, _defaults(cls), _nested(overrides, owner), owner, "", setting_names(cls))
    return cls(**values)


def setting_names(cls: type[Any]) -> list[str]:
    """The dotted names of everything :func:`configure` can change, as they are declared."""
    names = []
    for key, default in _defaults(cls).items():
        group = dataclasses.is_dataclass(default)
        names += [f"{key}.{name}" for name in setting_names(type(default))] if group else [key]
    return names


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names: ``{"ppo": {"gamma": 1}}`` as ``ppo.gamma``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value and all(isinstance(k, str) for k in value):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def coerce(hint: Any, value: Any, name: str) -> Any:
    """``value`` as the annotated type; raises :class:`InvalidSpec` naming it if it can't be."""
    config = None if dataclasses.is_dataclass(hint) else ConfigDict(arbitrary_types_allowed=True)
    try:
        return TypeAdapter(hint, config=config).validate_python(value)
    except ValidationError as error:
        expected = "; ".join(dict.fromkeys(e["msg"] for e in error.errors()))
        raise InvalidSpec(f"{name} cannot be {value!r}: {expected}") from error


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """The default of every field that can be set; ``MISSING`` where there is none."""
    return {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(cls)
        if f.init
    }


def _nested(overrides: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The opposite of :func:`dotted`, whatever was dotted and whatever was nested before."""
    tree: dict[str, Any] = {}
    for name, value in dotted(overrides).items():
        *groups, key = name.split(".")
        node: Any = tree
        for group in groups:
            node = node.setdefault(group, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or isinstance(node.get(key), dict):
            raise InvalidSpec(f"{owner}.{name} contradicts another setting of the same name")
        node[key] = value
    return tree


def _changed(
    cls: type[Any],
    current: Mapping[str, Any],
    tree: Mapping[str, Any],
    owner: str,
    path: str,
    known: list[str],
) -> dict[str, Any]:
    """New values of those fields of ``cls`` that ``tree`` names."""
    hints = typing.get_type_hints(cls, include_extras=True)
    changes: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}{key}"
        if key not in current:
            full = next(iter(dotted({name: value})))
            raise UnknownName(f"setting of {owner}", full, known)
        group = current[key]
        if not dataclasses.is_dataclass(group):
            changes[key] = coerce(hints[key], value, f"{owner}.{name}")
        elif isinstance(value, Mapping):
            values = _changed(type(group), vars(group), value, owner, f"{name}.", known)
            try:
                changes[key] = dataclasses.replace(group, **values)  # type: ignore[type-var]
            except InvalidSpec as error:
                raise InvalidSpec(f"{owner}.{name}: {error}") from error
        else:
            members = ", ".join(k for k in known if k.startswith(f"{name}."))
            raise InvalidSpec(
                f"{owner}.{name} is a group of settings, not a value ({value!r}); "
                f"set one of {members}"
            )
    return changes


def _explain(error: ValidationError) -> str:
    """Pydantic's findings about a spec in one line: each setting, its value, what was expected."""
    wrong: dict[str, tuple[Any, list[str]]] = {}
    for found in error.errors(include_url=False):
        name = str(found["loc"][0]) if found["loc"] else "spec"
        wrong.setdefault(name, (found["input"], []))[1].append(found["msg"])
    return "; ".join(
        f"{name} cannot be {value!r}: {'; '.join(dict.fromkeys(messages))}"
        for name, (value, messages) in wrong.items()
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
