"""Published figures of other papers, and ours beside them."""
