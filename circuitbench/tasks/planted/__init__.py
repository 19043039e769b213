"""Tasks of the planted models, one file per behaviour."""
