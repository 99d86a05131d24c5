"""Judging whole methods by labelled images that they were fitted without, and mixing what they say."""
