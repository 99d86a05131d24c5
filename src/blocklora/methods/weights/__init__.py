"""Methods that train CLIP's own weights."""
