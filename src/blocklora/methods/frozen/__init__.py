"""Methods on features of the frozen towers."""
