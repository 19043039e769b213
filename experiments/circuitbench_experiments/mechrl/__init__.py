"""MechRL (Khadka 2026, arXiv 2605.26343): the experiment of its first version."""
