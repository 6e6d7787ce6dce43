"""The public API: validation, admission, watching, status."""
