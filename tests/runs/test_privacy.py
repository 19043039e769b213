"""A record says what hardware it was made on, and nothing of folders and users."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import rogues

from circuitbench.results.text import to_bytes
from circuitbench.runs.once import run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("rogues")
    with rogues.installed(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", "/home/somebody-somewhere")
        patch.setenv("SECRET_OF_THIS_TEST", "hunter-of-secrets")
        yield folder


@pytest.mark.parametrize(
    ("method", "status", "told"),
    [
        ("random", "done", ""),
        ("rogue-tells", "done", '"file":"data.csv"'),
        ("rogue-tells", "failed", "weights.bin"),
    ],
)
@pytest.mark.parametrize("in_process", [True, False])
def test_a_record_says_nothing_of_folders_users_and_environment(
    home: Path, tmp_path: Path, method: str, status: str, told: str, in_process: bool
) -> None:
    hyperparameters = {"how": "info" if status == "done" else "raise"} if told else {}
    record = run(
        method, task="reverse", device="cpu", batch_size=4, functional="none", out=tmp_path,
        in_process=in_process, hyperparameters=hyperparameters,
    )  # fmt: skip
    text = to_bytes(record).decode()
    assert record.status == status
    assert told in text
    secrets = {
        *("somebody-somewhere", "hunter-of-secrets", "someone/", "SECRET_OF_THIS_TEST"),
        *(str(home), str(tmp_path), str(Path.cwd()), str(Path(rogues.__file__).parent)),
        *(socket.gethostname(), f"/{getpass.getuser()}/", os.environ.get("PATH", "/usr/bin")),
    }
    assert [secret for secret in secrets if secret in text] == []
