"""The MetaAgent: owns jobs; budgets, routes, dispatches, interrupts, decides when to halt."""
