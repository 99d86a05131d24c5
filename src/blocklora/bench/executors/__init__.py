"""Where the runs of a grid are done: in processes of this machine, or on a Ray cluster."""
