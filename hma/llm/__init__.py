"""The LLM layer: routes, the provider interface, and calls that cannot exceed a grant.

- `settings`, `profiles`, `routes`: where models are and what they can do.
- `base`: what a provider takes and gives back; implement `LLM` for another one.
- `openai_compatible`: the provider for vLLM, llama.cpp and whatever speaks the same HTTP.
- `budgeted`: `BudgetedLLM`, the only way services call a model.
"""
