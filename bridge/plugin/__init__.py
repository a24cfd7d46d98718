"""The DAW plugin: its sources, and what Python does for it."""
