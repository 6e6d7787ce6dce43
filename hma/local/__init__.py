"""The whole system on one machine: PostgreSQL, llama.cpp, the services, Envoy."""
