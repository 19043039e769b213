"""Models whose circuits are laid into the weights by hand."""
