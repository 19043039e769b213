"""Which extra brings which optional package; the one line that is said when it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from circuitbench.core.errors import CircuitBenchError

# The name a package is imported by, and the extra of pyproject.toml that installs it.
EXTRAS = {
    "cma": "learning",
    "gymnasium": "learning",
    "sb3_contrib": "learning",
    "sklearn": "learning",
    "stable_baselines3": "learning",
    "jinja2": "figures",
    "matplotlib": "figures",
    "pandas": "figures",
    "pyarrow": "figures",
    "seaborn": "figures",
    "huggingface_hub": "huggingface",
    "transformer_lens": "huggingface",
    "transformers": "huggingface",
    "tensorboard": "tensorboard",
    "ray": "ray",
    "mlflow": "mlflow",
    "wandb": "wandb",
}


class MissingExtra(CircuitBenchError):
    """An optional package that is not installed; says who needs it and which extra brings it."""

    def __init__(self, package: str, who: str = "this") -> None:
        super().__init__(f"{who} needs {package}: pip install 'circuitbench[{EXTRAS[package]}]'")


def missing_extra(error: BaseException | None, who: str = "this") -> MissingExtra | None:
    """The error to show instead where ``error`` came of an optional package being absent."""
    while error is not None:
        package = error.name if isinstance(error, ImportError) else None
        package = (package or "").partition(".")[0]
        if package in EXTRAS and isinstance(error, ModuleNotFoundError):
            return MissingExtra(package, who)
        error = error.__cause__
    return None


@contextmanager
def needs_extra(who: str) -> Iterator[None]:
    """Around an import of optional packages: their absence raises :class:`MissingExtra`.

    ``who`` needs them, for the message: ``"a figure"``.
    """
    try:
        yield
    except ImportError as error:
        found = missing_extra(error, who)
        if found is None:
            raise
        raise found from error
