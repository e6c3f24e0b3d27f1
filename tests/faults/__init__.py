"""Faults on purpose: kills at any byte of a write, and files that were altered in any way.

    python -m tests.faults kills --count 1000
    python -m tests.faults mutations --count 10000

The tests beside it run small shares of both; `docs/faults.md` has the figures of whole runs.
"""
