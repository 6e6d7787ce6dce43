"""The `hma` command line. `hma.cli.__main__` is its entry."""
