"""Submissions: a method's records packed for a pull request, and checked by running some again."""

from circuitbench_leaderboard.submission.pack import Submitted, submit
from circuitbench_leaderboard.submission.verify import Verified, verify

__all__ = ["Submitted", "Verified", "submit", "verify"]
