"""Shipped presets: one folder each, read by `stemwire.model.preset`."""
