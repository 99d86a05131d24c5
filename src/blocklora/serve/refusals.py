"""What the service refuses, and with which status."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Refusal", "busy", "too_many_images"]


class Refusal(Exception):
    """A request that gets no answer.

    Args:
        status: Of HTTP.
        message: What was expected, what came, and what to do; it names no path of the server.
        headers: Further headers of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def busy(seconds: int) -> Refusal:
    """Return the refusal of what there is no room for, which may be tried again after so many seconds."""
    return Refusal(
        429, f"the service is busy: try again in {seconds} s or later", {"Retry-After": str(seconds)}
    )


def too_many_images(most: int) -> Refusal:
    """Return the refusal of a request with more images than one may have."""
    return Refusal(413, f"one request may have {most} images at most: send several requests")
