"""What a submission says of itself, and where its files are."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from circuitbench.core.errors import InvalidSpec

MANIFEST, VERIFICATION, RECORDS = "manifest.yaml", "verification.yaml", "records"
Outcome = Literal["verified", "claimed"]


class _Sheet(BaseModel):
    """A YAML file of a submission; raises :class:`InvalidSpec` naming the file and the fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check the file."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSpec(f"cannot read {path}: {error}") from error
        except yaml.YAMLError as error:
            raise InvalidSpec(f"{path} is not valid YAML") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise InvalidSpec(f"{path}: {where}: {first['msg']}") from error

    def text(self) -> str:
        """The file's content."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True, width=100)


class Manifest(_Sheet):
    """What is submitted.

    Args:
        schema_version: of this file.
        method, title, family, paper, link: which method, as its plug-in says.
        track: on what it was trained.
        package: what pip installs to have it; "" for a method of circuitbench's own.
        tuned_on: on what its settings were chosen, in the submitter's words.
        source: version and commit of circuitbench that made the records.
        settings: hyperparameters, and what else of the spec is the same in all runs.
        tasks: ``task / model`` by tier.
        seeds: of the runs.
        runs: how many.
        missing: what a complete submission would have, one line each.
        archive: the file of records, and its SHA-256.
    """

    schema_version: Literal[1] = 1
    method: str
    title: str = ""
    family: str = ""
    paper: str = ""
    link: str = ""
    track: str
    package: str = ""
    tuned_on: str
    source: str
    settings: dict[str, Any]
    tasks: dict[str, list[str]]
    seeds: list[int]
    runs: int = Field(ge=1)
    missing: list[str]
    archive: str = Field(pattern=rf"^{RECORDS}/[A-Za-z0-9][A-Za-z0-9._@+-]*\.zip$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Cell(BaseModel):
    """One run that was repeated: the metrics it had, those it has now, and what differs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    model: str
    seed: int
    run_id: str
    recorded: dict[str, float]
    repeated: dict[str, float]
    differs: list[str]


class Verification(_Sheet):
    """What came of repeating some runs.

    Args:
        outcome: ``verified`` where every repeated run gave the same, else ``claimed``.
        number: what the sample was drawn with.
        source: version and commit that repeated them.
        sha256: of the archive that was verified; another archive is not.
        cells: the repeated runs.
    """

    outcome: Outcome
    number: int
    source: str
    sha256: str
    cells: list[Cell]


def digest_of(path: Path) -> str:
    """SHA-256 of a file; raises :class:`InvalidSpec` if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InvalidSpec(f"cannot read {path}: {error.strerror}") from error


@lru_cache(maxsize=256)
def standing_of(folder: Path) -> Outcome | None:
    """Whether a folder of records is a submission, and whether it was verified; None: it is none.

    ``folder`` holds ``records`` or is it. Whatever cannot be read, or is about other records, is
    claimed.
    """
    root = folder.parent if folder.name == RECORDS else folder
    if not (root / MANIFEST).is_file():
        return None
    try:
        manifest = Manifest.read(root / MANIFEST)
        found = Verification.read(root / VERIFICATION)
        same = found.sha256 == manifest.sha256 == digest_of(root / manifest.archive)
    except InvalidSpec:
        return "claimed"
    return found.outcome if same else "claimed"
