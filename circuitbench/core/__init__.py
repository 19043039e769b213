"""Values that every room speaks of: heads, edges, circuits, discoveries, errors, seeds."""
