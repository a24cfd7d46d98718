"""The screen of `stemwire live`."""
