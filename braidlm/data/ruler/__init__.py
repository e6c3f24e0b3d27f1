"""Texts in which something is hidden, after RULER: needles, variables, frequent words, documents.

Source: Hsieh et al. 2024 (arXiv 2404.06654); NVIDIA/RULER, whose templates these are.
"""
