"""What every room needs and that knows nothing of images: errors, files, device, seeds, threads, resources."""
