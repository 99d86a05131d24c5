"""Fixtures of the small task."""

from small_task import clip, job, loaded_clip  # noqa: F401
