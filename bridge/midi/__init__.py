"""MIDI control of whatever Stemwire plays."""
