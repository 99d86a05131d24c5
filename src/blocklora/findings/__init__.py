"""What is wrong with labelled images, from one look at each: its features, a grey sketch and a few numbers."""
