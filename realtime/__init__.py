"""The streaming engine: windows, STFT, backends and the streaming separator."""
