"""From corpora and generators to batches: tokenise once, pack exactly, mix reproducibly."""
