"""What a method, a task or a model says of itself, for people, tables and pages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, get_args

from circuitbench.core.display import Displayed, Sheet
from circuitbench.core.errors import InvalidPlugin, UnknownName

Granularity = Literal["heads", "edges"]
Need = Literal["counterfactuals", "gradients", "training", "mlps", "edges", "rules", "spans"]

P = TypeVar("P")


@dataclass(frozen=True)
class Info(Displayed):
    """What a plug-in says of itself; the decorator that says it.

    ::

        @Info(title="ACDC over heads", family="Mask search", paper="Conmy et al. 2023",
              link="https://arxiv.org/abs/2304.14997", needs=("counterfactuals",))
        @dataclass(frozen=True)
        class ACDC: ...

    Write it down literally (no names, no arithmetic): lists and pages read it from the source,
    without importing the plug-in (see :mod:`circuitbench.plugins.info`). A subclass does not
    inherit it.

    Args:
        title: the plug-in's name for people.
        family: the heading it stands under, e.g. ``Patching`` or ``Bandit``.
        paper: who described it, as authors and year.
        link: where to read that.
        granularity: ``edges`` where a method ranks edges as well as heads, or where the truth
            of a task lists edges.
        needs: of a method, what it asks for: ``counterfactuals`` (unless told otherwise by a
            hyperparameter), ``gradients``, ``training``, ``mlps``, ``edges`` (``oracle.edges``),
            ``rules`` (other backward rules than the true gradient), ``spans`` (prompts that name
            positions). A run that cannot give one of the last three is skipped. Of a task,
            ``mlps`` where its circuit has MLPs.
        most_edges: of a method that asks about every edge: without a budget, a run on a model
            of more edges is skipped; 0 is no limit.
        version: raise it when the same spec and seed begin to give something else.

    Raises:
        InvalidPlugin: a title or family that is empty.
        UnknownName: a granularity or need that does not exist; names the nearest.
    """

    title: str
    family: str
    paper: str = ""
    link: str = ""
    granularity: Granularity = "heads"
    needs: tuple[Need, ...] = ()
    version: str = "1"
    most_edges: int = 0

    def __post_init__(self) -> None:
        for name in ("title", "family", "paper", "link", "version"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise InvalidPlugin(f"Info: {name} must be text, not {value!r}")
        if not self.title.strip() or not self.family.strip():
            raise InvalidPlugin("Info: title and family must not be empty")
        if type(self.most_edges) is not int or self.most_edges < 0:
            raise InvalidPlugin(f"Info: most_edges must be 0 or more, not {self.most_edges!r}")
        if not isinstance(self.needs, tuple):
            raise InvalidPlugin(f"Info: needs must be a tuple of names, not {self.needs!r}")
        for kind, values, known in (
            ("granularity", (self.granularity,), get_args(Granularity)),
            ("need", self.needs, get_args(Need)),
        ):
            for value in values:
                if value not in known:
                    raise UnknownName(kind, str(value), known)

    def __call__(self, plugin: P) -> P:
        """Attach this to a class or function, and return it unchanged otherwise."""
        setattr(plugin, _ATTRIBUTE, self)
        return plugin

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, as a record keeps them."""
        found = asdict(self) | {"needs": list(self.needs)}
        if not self.most_edges:
            del found["most_edges"]
        return found

    def sheet(self) -> Sheet:
        """Every field that says something."""
        values = asdict(self) | {"needs": ", ".join(self.needs)}
        rows = [(name, value) for name, value in values.items() if value and name != "title"]
        return Sheet(self.title, rows)


_ATTRIBUTE = "__circuitbench_info__"


def attached(plugin: object) -> Info | None:
    """The :class:`Info` that decorates a class or function itself; None if there is none."""
    found = vars(plugin).get(_ATTRIBUTE)
    return found if isinstance(found, Info) else None
