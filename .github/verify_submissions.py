"""Verify every submission that a pull request changes: python verify_submissions.py BASE NUMBER."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path("leaderboard/submissions")
OURS = "verification.yaml"  # written by whoever verifies, never by whoever submits


def main(base: str, number: str) -> int:
    """Exit status: 0 if all are verified."""
    command = ["git", "diff", "--name-only", "-z", f"{base}...HEAD", "--", str(FOLDER)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    changed = [Path(name) for name in listed.split("\0") if name]
    brought = [path for path in changed if path.name == OURS]
    for path in brought:
        print(f"{path}: a pull request does not bring its own verification")
    if brought:
        return 1
    names = {path.relative_to(FOLDER).parts[0] for path in changed}
    failed = 0
    for folder in sorted(FOLDER / name for name in names if (FOLDER / name).is_dir()):
        print(f"## {folder.name}", flush=True)
        requirements = folder / "requirements.txt"
        if requirements.is_file():
            install = [sys.executable, "-m", "pip", "install", "-q", "-c", "constraints.txt"]
            subprocess.run([*install, "-r", str(requirements)], check=True)
        verb = [sys.executable, "-m", "circuitbench", "verify", str(folder), "--number", number]
        failed += subprocess.run(verb, check=False).returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
