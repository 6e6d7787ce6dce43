"""Inputs that nobody would send in good faith, made from the contracts themselves.

`make fuzz` sends 10,000 of them to a fleet behind the real Envoy; tests/e2e/test_fuzz.py
sends a few hundred in every test run. Whatever comes, a caller may be refused but nothing
may break: no INTERNAL or UNKNOWN, no HTTP 500, no traceback in a log, nothing ends.
"""
