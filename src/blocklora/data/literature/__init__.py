"""The data sets of the literature, by name: where they lie, how they are split."""
