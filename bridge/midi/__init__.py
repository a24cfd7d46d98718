"""MIDI control surfaces that steer a session."""
