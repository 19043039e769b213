"""Models trained here, shipped as weights, their circuits established by exhaustive tests."""
