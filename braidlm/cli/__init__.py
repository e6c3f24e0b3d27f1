"""The command line: one file per command. Torch is imported only by commands that need it."""
