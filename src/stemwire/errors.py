"""All errors Stemwire raises for what a user did or met; bugs raise ordinary Python errors.

Every message names what was wrong, what was expected and what to do about it.
"""

from __future__ import annotations


class StemwireError(Exception):
    """Root of all errors that Stemwire raises at its borders."""


class ConfigError(StemwireError):
    """A setting, argument or configuration that cannot work."""


class CheckpointError(StemwireError):
    """A checkpoint or preset that is missing, damaged, foreign or of another version."""


class AudioError(StemwireError):
    """Audio that cannot be processed: unreadable, empty, wrong shape, NaN or Inf."""


class AudioDeviceError(StemwireError):
    """A sound device that is missing, busy, gone or unable to do what was asked of it."""


class BackendError(StemwireError):
    """A backend that is unknown, not installed or without its hardware."""


class OutputError(StemwireError):
    """A result that cannot be written: no permission, disk full, path in the way."""


class TrainingError(StemwireError):
    """Training that cannot go on: a loss that is not finite, or no memory left."""


class ProtocolError(StemwireError):
    """What came over a connection is not what the protocol allows.

    Attributes:
        code: one of `stemwire.bridge.protocol.messages.ERROR_CODES`.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class BridgeError(StemwireError):
    """A server that cannot be reached, refuses, or is gone for good."""
