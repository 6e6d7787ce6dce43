"""What a replica tidies up beside its work: jobs that expire, state that nobody uses."""
