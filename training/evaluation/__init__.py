"""Evaluation of separation quality, and baselines."""
