"""Episodes over heads as pure bookkeeping: rules, knockouts, and what was learned from them."""
