"""The one frozen classifier: its head, its towers, how it is encoded, saved and loaded."""
