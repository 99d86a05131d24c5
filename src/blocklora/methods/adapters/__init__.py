"""Methods that train an adapter in CLIP's layers."""
