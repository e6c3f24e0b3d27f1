"""Operators: each has a slow truth (naive) and faster forms that must agree with it."""
