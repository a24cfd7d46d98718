"""Training loop, settings and files of a run."""
