"""MechRL's second version (Khadka 2026, arXiv 2605.26343v2): a policy that removes edges."""
