"""Documents that stand in a corpus twice, exactly or nearly.

Near duplicates are found by MinHash over 5-grams of words, as Lee et al. 2021 (arXiv 2107.06499)
do, with one permutation: the hashes of a document's 5-grams fall into 128 bins by their top bits,
and the least of each bin is its signature (Li, Owen and Zhang 2012; an empty bin takes the value
of the next filled one, Shrivastava and Li 2014, arXiv 1406.4784). The share of equal bins
estimates the Jaccard similarity J of two documents within sqrt(J (1 - J) / 128) <= 0.044.
Candidates agree in all 4 bins of one of 32 bands, which a pair of J = 0.8 misses once in 10^7.
"""

from typing import Any, NamedTuple

import numpy as np

from braidlm.data.ngrams import blocks, grams

SHINGLE_WORDS = 5
N_BINS, N_BANDS = 128, 32
THRESHOLD = 0.8
MAX_DOCUMENTS = 1 << 20
_SHOWN = 10
_EDGES = np.arange(N_BINS, dtype=np.uint64) << np.uint64(57)


class _Pair(NamedTuple):
    first: int
    second: int
    similarity: float


class NearDuplicates:
    """Takes documents one by one; 0.5 KiB is kept of each, of 2^20 documents at most."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._whole: list[int] = []
        self._signatures: list[np.ndarray] = []
        self.n_beyond = 0

    def add(self, document_id: str, text: str) -> None:
        """Take one document; those beyond 2^20 are only counted."""
        if len(self._ids) == MAX_DOCUMENTS:
            self.n_beyond += 1
            return
        found = np.concatenate([_shingles(block) for block in blocks(text)])
        if not len(found):
            return
        self._ids.append(document_id)
        self._whole.append(hash((len(found), found.tobytes())))
        self._signatures.append(_signature(found))

    def summary(self) -> dict[str, Any]:
        """Return counts and the most similar pairs that are not the same.

        Returns:
            {"documents", "exact" (documents whose words stood in an earlier one), "near" (beyond
            these: documents linked to an earlier one by an estimated J of at least 0.8), "beyond"
            (not looked at), "examples": [{"first", "second", "similarity"}]}.
        """
        seen: dict[int, int] = {}
        for i, whole in enumerate(self._whole):
            seen.setdefault(whole, i)
        firsts = list(seen.values())
        pairs = self._pairs(np.array(firsts, dtype=np.int64))
        parent = list(range(len(self._ids)))
        near = sum(_join(parent, pair.first, pair.second) for pair in pairs)
        examples = sorted(pairs, key=lambda p: (-p.similarity, p.first, p.second))[:_SHOWN]
        return {
            "documents": len(self._ids),
            "exact": len(self._ids) - len(firsts),
            "near": near,
            "beyond": self.n_beyond,
            "examples": [
                {"first": self._ids[p.first], "second": self._ids[p.second]}
                | {"similarity": round(p.similarity, 3)}
                for p in examples
            ],
        }

    def _pairs(self, documents: np.ndarray) -> list[_Pair]:
        if len(documents) < 2:
            return []
        signatures = np.stack([self._signatures[i] for i in documents.tolist()])
        rows = N_BINS // N_BANDS
        found: dict[tuple[int, int], float] = {}
        for band in range(N_BANDS):
            keys = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
            order = np.lexsort(keys.T)
            same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
            for at in np.flatnonzero(same).tolist():
                one, other = int(order[at]), int(order[at + 1])
                pair = (min(one, other), max(one, other))
                if pair not in found:
                    found[pair] = float((signatures[pair[0]] == signatures[pair[1]]).mean())
        close = [(a, b, s) for (a, b), s in found.items() if s >= THRESHOLD]
        return [_Pair(int(documents[a]), int(documents[b]), s) for a, b, s in close]


def _shingles(text: str) -> np.ndarray:
    found = grams(text, SHINGLE_WORDS)
    if len(found.hashes) or not found.text:
        return found.hashes
    n = found.text.count(b" ")  # a document of fewer words is one shingle
    return grams(text, n).hashes


def _signature(hashes: np.ndarray) -> np.ndarray:
    """Return the least hash of each bin, its lower 32 bits: (128,) uint32."""
    ordered = np.sort(hashes)
    at = np.searchsorted(ordered, _EDGES)
    stops = np.append(at[1:], len(ordered))
    filled = np.flatnonzero(at < stops)
    # An empty bin looks to the right, around the end if need be.
    nearest = filled[np.searchsorted(filled, np.arange(N_BINS)) % len(filled)]
    return (ordered[at[nearest]] >> np.uint64(20)).astype(np.uint32)


def _join(parent: list[int], a: int, b: int) -> bool:
    """Put two documents into one cluster; tell whether they were in two."""
    while parent[a] != a:
        a = parent[a]
    while parent[b] != b:
        b = parent[b]
    parent[max(a, b)] = min(a, b)
    return a != b
