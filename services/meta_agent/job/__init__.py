"""What a job is: its state, how events change it, how it is shown."""
