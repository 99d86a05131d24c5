"""The best of many methods, found by cross-validation within a time."""
