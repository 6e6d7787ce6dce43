"""All judgement of the MetaAgent, pure: no clock, no randomness, no I/O."""
