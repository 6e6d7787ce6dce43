"""The commands of `hma`, a module for each family. `hma.cli.app` lists them."""
