"""Fixtures of the small task."""

from small_task import clip, job  # noqa: F401
