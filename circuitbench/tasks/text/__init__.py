"""Tasks as files: prompts from templates or pairs, with answers, control text and truths.

Nobody needs Python for these. See docs/your-behaviour.md.
"""
