"""Find what is wrong with labelled images, and which unlabelled ones to label next."""
