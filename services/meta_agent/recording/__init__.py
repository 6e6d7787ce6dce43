"""What is kept of jobs besides their logs: metrics and the benchmark log."""
