"""gRPC on both sides: servers, channels, statuses, validation and attempts."""
