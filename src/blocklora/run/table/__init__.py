"""A table of answers for folders of any size: listed once, journaled batch by batch, and written whole at the end."""
