"""What the declarations of all tasks share."""

RESULT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a task may be called: its name becomes a part of a file name."""
