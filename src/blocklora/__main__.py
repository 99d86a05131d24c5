"""``python -m blocklora``: the same as ``blocklora``."""

from blocklora.cli.app import main

main()
