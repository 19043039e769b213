"""Models compiled from programs: every head is a line of code."""
