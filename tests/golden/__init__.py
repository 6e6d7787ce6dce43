"""Logs of earlier releases, kept as test data, and the states that they fold to.

A release that folds them to anything else breaks every job that is under way when it is
rolled out. `python -m tests.golden` adds the logs of this reader version; those of an
earlier one are never made again.
"""
