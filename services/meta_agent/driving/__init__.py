"""The thin shell around deciding: claims jobs, appends events, keeps streams."""
