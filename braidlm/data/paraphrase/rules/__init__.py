"""Paraphrases by rule, offline: synonyms, phrases, order, voice, numbers and dates.

Each rule takes a parsed sentence and leaves it alone unless every condition holds under which the
rewriting is grammar, not guessing. English alone.
"""
