"""Stems among the effects of pedalboard."""
