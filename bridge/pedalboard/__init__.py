"""Separators that are called like the plugins of pedalboard."""
