"""What the measurements share: the running system, scripted answers, printed tables."""
