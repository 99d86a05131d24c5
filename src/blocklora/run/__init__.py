"""From a data set to a RUN folder, and back."""
