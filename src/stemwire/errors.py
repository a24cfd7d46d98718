"""Errors that users can cause or meet; bugs raise ordinary Python errors.

Every message says what was wrong, what was expected and what to do about it.
"""

from __future__ import annotations


class StemwireError(Exception):
    """Base class of all errors that Stemwire raises."""


class ConfigError(StemwireError):
    """Invalid setting, argument or configuration."""


class CheckpointError(StemwireError):
    """Checkpoint or preset that is missing, damaged, not ours or of another version."""


class AudioError(StemwireError):
    """Audio that cannot be processed: unreadable, empty, wrong shape, NaN or Inf."""


class AudioDeviceError(StemwireError):
    """Sound device that is missing, busy, disconnected or does not support the settings."""


class BackendError(StemwireError):
    """Backend that is unknown, not installed or without its hardware."""


class OutputError(StemwireError):
    """Result that cannot be written: no permission, disk full, path already taken."""


class TrainingError(StemwireError):
    """Training that cannot continue: loss not finite, or out of memory."""


class ProtocolError(StemwireError):
    """Message or audio that violates the protocol.

    Attributes:
        code: one of `stemwire.bridge.protocol.messages.ERROR_CODES`.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class BridgeError(StemwireError):
    """Server that cannot be reached, refuses the client, or has ended the session."""
