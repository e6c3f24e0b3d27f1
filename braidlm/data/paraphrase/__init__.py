"""Paraphrases: methods that write them, a gate that judges them, and the folder they lie in.

One call of `make` joins the three. A method is told nothing about files, retries of a run or the
gate; the folder is the only thing that whoever trains on paraphrases reads.
"""
