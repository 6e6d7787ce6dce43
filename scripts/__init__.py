"""What `make` runs: see the Makefile."""
