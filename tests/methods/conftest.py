"""Fixtures of the small task."""

from small_task import clip, fit_method, task_of  # noqa: F401
