"""The Worker: executes one task per stream."""
