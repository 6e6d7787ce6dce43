"""What Envoy is told: limits against floods, and the words of its own replies."""
