"""What computes the oracle's answers: plain weights with shared prefixes, or hooks."""
