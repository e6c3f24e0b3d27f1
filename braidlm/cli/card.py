"""The figures of one model, as data and as text: what `braid describe` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from braidlm.arch.cost import Cost, SublayerCost, cost
from braidlm.arch.published import Convention, Published, PublishedSublayer, differences, published
from braidlm.arch.reads import batch_reads, has_experts
from braidlm.arch.spec import Spec, Sublayer
from braidlm.cli.table import count, flops, ranges, shorten, size, table, tokens

CONTEXTS = (2**10, 2**13, 2**16, 2**18, 2**20)
"""Contexts of the decode table: 1K, 8K, 64K, 256K, 1M."""

BATCHES = (1, 8, 64, 512)
"""Rows of the table of experts."""

LEFT = ("symbol", "mixer", "at")
"""Columns of text."""

Row = TypeVar("Row", SublayerCost, PublishedSublayer)


def exact(spec: Spec, context: int) -> dict[str, Any]:
    """Return our own exact count, every number an integer."""
    whole = cost(spec, context)
    names = (
        "n_params",
        "n_active_params",
        "block_params",
        "embedding_params",
        "head_params",
        "final_norm_params",
        "meta_params",
        "model_flops",
        "model_flops_per_token",
        "training_flops",
        "training_flops_per_token",
        "kv_bytes",
        "kv_bytes_per_token",
        "state_bytes",
    )
    return {
        **_head(spec, context, "exact"),
        "totals": {name: getattr(whole, name) for name in names},
        "contexts": [_at(cost(spec, n)) for n in _contexts(context)],
        **(
            {"batches": [asdict(batch_reads(spec, n)) for n in BATCHES]}
            if has_experts(spec)
            else {}
        ),
        "sublayers": _rows(spec, whole.sublayers),
    }


def published_figures(convention: Convention, spec: Spec, context: int) -> dict[str, Any]:
    """Return a paper's count, and by name what the exact count adds to it."""
    paper = published(convention, spec, context)
    return {
        **_head(spec, context, convention),
        "totals": {
            "n_params": paper.n_params,
            "training_flops_per_token": paper.training_flops_per_token,
            "kv_bytes": paper.kv_bytes,
            "kv_bytes_per_token": paper.kv_bytes_per_token,
            "state_bytes": paper.state_bytes,
            "cache_bytes": paper.cache_bytes,
        },
        "exact_minus_published_params": differences(convention, spec),
        "sublayers": _rows(spec, paper.sublayers),
    }


def exact_text(spec: Spec, context: int, each: bool) -> str:
    """Return the same as a table per sublayer, totals, and decode bytes at several contexts."""
    whole = cost(spec, context)
    head = (
        "symbol",
        "n",
        "mixer",
        "params each",
        "params",
        "FLOP/token",
        "KV/token",
        "state",
        "at",
    )

    def figures(s: SublayerCost, n: int, n_params: int) -> tuple[str, ...]:
        return (
            count(s.n_params),
            count(n_params),
            count(n * s.model_flops // context),
            _growth(n * s.kv_bytes, n * s.kv_bytes_per_token),
            size(n * s.state_bytes),
        )

    rows = _lines(spec, whole.sublayers, figures, each)
    parts = [_title(spec), table(head, rows, LEFT), _totals(spec, whole), _decode(spec, context)]
    return "\n".join([*parts, _experts(spec)] if has_experts(spec) else parts)


def changes_text(changes: list[dict[str, Any]]) -> str:
    """Return a line per field in which a model differs from that of its init."""
    if not changes:
        return ""
    rows = [(c["field"], *(_plainly(c.get(end)) for end in ("from", "to"))) for c in changes]
    head = ("changed from its init", "from", "to")
    return "\n" + table(head, rows, head)


def _plainly(value: Any) -> str:
    """Write a field's value; a run alone knows what it was before."""
    return "" if value is None else str(value)


def published_text(convention: Convention, spec: Spec, context: int, each: bool) -> str:
    """Return a paper's count as text."""
    paper = published(convention, spec, context)
    head = ("symbol", "n", "mixer", "params each", "params", "train FLOP/token", "cache", "at")

    def figures(s: PublishedSublayer, n: int, n_params: int) -> tuple[str, ...]:
        return (
            count(s.n_params),
            count(n_params),
            "not given" if s.training_flops is None else count(n * s.training_flops // context),
            size(n * s.cache_bytes),
        )

    rows = _lines(spec, paper.sublayers, figures, each)
    return "\n".join((_title(spec), table(head, rows, LEFT), _published_totals(paper, spec)))


def _head(spec: Spec, context: int, convention: str) -> dict[str, Any]:
    return {
        "convention": convention,
        "context": context,
        "spec": spec.model_dump(mode="json", exclude_none=True),
    }


def _contexts(context: int) -> list[int]:
    return sorted({*CONTEXTS, context})


def _at(c: Cost) -> dict[str, int]:
    return {
        "context": c.context,
        "cache_bytes": c.cache_bytes,
        "decode_flops": c.decode_flops,
        "decode_weight_bytes": c.decode_weight_bytes,
        "decode_bytes_per_step": c.decode_bytes_per_step,
    }


def _rows(spec: Spec, costs: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {**asdict(c), "letters": list(s.letters), "kinds": [b.summary for b in s.branches]}
        for c, s in zip(costs, spec.sublayers, strict=True)
    ]


def _lines(
    spec: Spec,
    costs: Sequence[Row],
    figures: Callable[[Row, int, int], tuple[str, ...]],
    each: bool,
) -> list[tuple[str, ...]]:
    """Return one row per distinct sublayer, or per sublayer; branches have rows of their own.

    `figures` is given the first of them, their number, and the parameters of all: later uses of a
    shared letter have fewer than the first.
    """
    groups: dict[object, list[int]] = {}
    for s in spec.sublayers:
        groups.setdefault(s.index if each else s.symbol, []).append(s.index)
    out: list[tuple[str, ...]] = []
    for places in groups.values():
        sublayer, n = spec.sublayers[places[0]], len(places)
        cells = figures(costs[places[0]], n, sum(costs[i].n_params for i in places))
        out.append((sublayer.symbol, str(n), _mixer(sublayer), *cells, shorten(ranges(places))))
        if sublayer.is_parallel:
            blank = [""] * (len(cells) + 1)
            out.extend(
                ("", "", f"  {letter} {branch.summary}", *blank)
                for letter, branch in zip(sublayer.letters, sublayer.branches, strict=True)
            )
    return out


def _mixer(s: Sublayer) -> str:
    shared = "shared " if s.wiring.shared else ""
    return shared + (s.branches[0].summary if s.fusion is None else s.fusion.summary)


def _title(spec: Spec) -> str:
    tied = "tied" if spec.tie_embeddings else "untied"
    return (
        f"{spec.pattern}\n{spec.n_layers} sublayers, d_model {spec.d_model:,}, "
        f"vocabulary {spec.vocab_size:,} ({tied})\n"
    )


def _totals(spec: Spec, c: Cost) -> str:
    head = "the embedding" if spec.tie_embeddings else count(c.head_params)
    per_token, sequence = c.model_flops_per_token, f"per sequence of {c.context:,} tokens"
    meta = f", meta tokens {c.meta_params:,}" if c.meta_params else ""
    rows = [
        ("parameters", f"{count(c.n_params)} ({c.n_params:,})"),
        (
            "",
            f"blocks {count(c.block_params)}, embedding {count(c.embedding_params)}, head {head}, "
            f"final norm {c.final_norm_params:,}{meta}",
        ),
        ("forward", f"{flops(per_token)} per token, {flops(c.model_flops)} {sequence}"),
        (
            "training",
            f"{flops(c.training_flops_per_token)} per token, {flops(c.training_flops)} {sequence}",
        ),
        ("KV cache", _kv(c, "per token, bf16")),
        ("state", _or_none(c.state_bytes, "per sequence, fp32")),
    ]
    if c.n_active_params != c.n_params:
        rows.insert(2, ("active", f"{count(c.n_active_params)} per token"))
    return _pairs(rows)


def _published_totals(paper: Published, spec: Spec) -> str:
    per_token = paper.training_flops_per_token
    rows = [
        ("counted as", f"{paper.convention}: bf16 states with d_conv columns"),
        ("parameters", f"{count(paper.n_params)} ({paper.n_params:,})"),
        (
            "training",
            "not given" if per_token is None else f"{flops(per_token)} per token, no head",
        ),
        ("KV cache", _kv(paper, "per token")),
        ("state", _or_none(paper.state_bytes, "per sequence")),
        ("cache", f"{size(paper.cache_bytes)} at {paper.context:,} tokens"),
    ]
    terms = differences(paper.convention, spec)
    rows += [("exact adds", f"{name} {n:,}") for name, n in terms.items()]
    return _pairs(rows)


def _growth(n_bytes: int, per_token: int) -> str:
    """Return bytes per token of a cache, or all bytes of one that is full and grows no more."""
    return f"{size(n_bytes)} full" if n_bytes and not per_token else size(per_token)


def _kv(c: Cost | Published, per: str) -> str:
    """Return the growth of the caches, and where windows bound some of them also their size."""
    if c.kv_bytes == c.context * c.kv_bytes_per_token:
        return _or_none(c.kv_bytes_per_token, per)
    growth = f"{size(c.kv_bytes_per_token)} {per}" if c.kv_bytes_per_token else "no more"
    return f"{size(c.kv_bytes)} at {c.context:,} tokens, then {growth}"


def _or_none(n_bytes: int, per: str) -> str:
    return f"{size(n_bytes)} {per}" if n_bytes else "none"


def _decode(spec: Spec, context: int) -> str:
    costs = [cost(spec, n) for n in _contexts(context)]
    rows = [
        (
            tokens(c.context),
            size(c.cache_bytes),
            count(c.decode_flops),
            size(c.decode_weight_bytes),
            size(c.kv_read_bytes),
            size(2 * c.state_bytes),
            size(c.decode_bytes_per_step),
        )
        for c in costs
    ]
    head = ("context", "cache", "FLOP", "weights", "KV read", "state r+w", "bytes per decode step")
    return table(head, rows)


def _experts(spec: Spec) -> str:
    """Return how many experts of a layer, and bytes of weights, decode steps of batches read."""
    reads = [batch_reads(spec, n) for n in BATCHES]
    letters = list(reads[0].distinct_experts)
    head = ("batch", *(f"experts of {x}" for x in letters), "weights per decode step", "per row")
    rows = [
        (
            f"{r.batch:,}",
            *(f"{r.distinct_experts[x]:.1f}" for x in letters),
            size(r.weight_bytes),
            size(r.weight_bytes // r.batch),
        )
        for r in reads
    ]
    return table(head, rows)


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{name:<12}{text}".rstrip() + "\n" for name, text in rows)
