"""The declaration of a model: everything that decides its function and its cost."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from braidlm.arch import defaults, lending
from braidlm.arch.config import Config, nearest
from braidlm.arch.fusion import ATTENDING, Fusion
from braidlm.arch.letters import (
    Letter,
    ParallelLetter,
    default_kind,
    mixer_table,
    parallel_table,
)
from braidlm.arch.mixers import KINDS, MixerConfig
from braidlm.arch.pattern import parse
from braidlm.arch.sublayer import Sublayer, check
from braidlm.arch.wiring import PLAIN, WIRING, Wiring
from braidlm.errors import InputError


class Spec(Config):
    """A hybrid language model. Sizes that were left out are filled in and become explicit."""

    pattern: str
    """The sublayers, in the grammar of `braidlm.arch.pattern`; stored in canonical form."""
    d_model: int = Field(default=defaults.D_MODEL, gt=0)
    """Width of the residual stream."""
    vocab_size: int = Field(default=defaults.VOCAB_SIZE, gt=1)
    """Rows of the embedding."""
    tie_embeddings: bool = True
    """Whether the head is the embedding."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square in every norm."""
    init_std: float = Field(gt=0)
    """Spread of every initial weight matrix. Default: (mup_base_width or d_model) ** -0.5."""
    depth_scaled_init: bool = False
    """Whether output projections start smaller by sqrt(number of sublayers), as in GPT-2."""
    norm_offset: float = Field(default=0.0, ge=0)
    """Added to the stored weight of every RMSNorm (a mixer's gated norm apart): 1 in Qwen3-Next."""
    n_meta_tokens: int = Field(default=0, ge=0)
    """Learned vectors that stand before every document (Hymba: 128). Default: 0."""
    embedding_multiplier: float = Field(default=1.0, gt=0)
    """Factor on the embedded tokens (Granite, Falcon-H1). Default: 1."""
    residual_multiplier: float = Field(default=1.0, gt=0)
    """Factor on what every sublayer adds to the residual stream (Granite). Default: 1."""
    logits_multiplier: float = Field(default=1.0, gt=0)
    """Factor on the logits. Default: 1."""
    mup_base_width: int = Field(default=0, ge=0)
    """d_model at which the learning rate was chosen (muP, `docs/mup.md`); 0: off, the default."""
    mixers: tuple[Letter, ...]
    """Letters and their mixers, sorted by letter."""
    parallel: tuple[ParallelLetter, ...] = ()
    """Letters that name parallel sublayers, sorted by letter."""
    fusion: Fusion
    """How the branches of ``{...}`` are combined."""

    @classmethod
    def parse(
        cls,
        pattern: str,
        *,
        d_model: int = defaults.D_MODEL,
        vocab_size: int = defaults.VOCAB_SIZE,
    ) -> Self:
        """Declare a model in one line, every other field at its default.

        Raises:
            InputError: for a pattern or a size that cannot be.
        """
        return cls.of({"pattern": pattern, "d_model": d_model, "vocab_size": vocab_size})

    @field_validator("pattern")
    @classmethod
    def _canonical(cls, pattern: str) -> str:
        return str(parse(pattern))

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """Make every size explicit; see `braidlm.arch.defaults`."""
        if not isinstance(data, dict) or not isinstance(data.get("pattern"), str):
            return data
        d_model = data.get("d_model", defaults.D_MODEL)
        if not isinstance(d_model, int) or d_model < 1:
            raise InputError(f"d_model = {d_model!r}: must be a whole number of at least 1")
        own = _groups(data)
        parallel = parallel_table(data.get("parallel", ()))
        wirings, mixers = mixer_table(data.get("mixers", ()))
        groups = [*own, *(tuple(p["branches"]) for p in parallel.values())]
        _refuse_nesting(groups, parallel)
        _refuse_wired_branches(groups, wirings)
        for letter in sorted({*_used(data), *(x for g in groups for x in g)} - set(parallel)):
            if letter not in mixers:
                mixers[letter] = {"kind": default_kind(letter, [*mixers, *parallel])}
        n_meta = data.get("n_meta_tokens", 0)
        mixers = _complete(mixers, d_model, n_meta)
        return {
            "init_std": _init_std(data, d_model),
            **data,
            "mixers": tuple(
                Letter(
                    letter=k,
                    mixer=_mixer(v, f"mixers.{k}"),  # pyright: ignore[reportArgumentType]
                    **wirings.get(k, PLAIN).model_dump(),
                )
                for k, v in sorted(mixers.items())
            ),
            "parallel": tuple(
                ParallelLetter(
                    letter=k,
                    branches=p["branches"],
                    fusion=_fusion(
                        p["fusion"], [tuple(p["branches"])], mixers, n_meta, f"parallel.{k}"
                    ),
                    **p["wiring"].model_dump(),
                )
                for k, p in sorted(parallel.items())
            ),
            "fusion": _fusion(data.get("fusion", {}), own, mixers, n_meta, "fusion"),
        }

    @model_validator(mode="after")
    def _every_sublayer_can_be(self) -> Self:
        clash = {x.letter for x in self.mixers} & {x.letter for x in self.parallel}
        if clash:
            raise InputError(f"letter '{min(clash)}' is declared both as a mixer and as parallel")
        check(self.sublayers)
        lending.check(self.sublayers)
        return self

    @cached_property
    def sublayers(self) -> tuple[Sublayer, ...]:
        """Every sublayer, in order."""
        mixers = {x.letter: x for x in self.mixers}
        parallel = {x.letter: x for x in self.parallel}
        out: list[Sublayer] = []
        first: dict[str, int] = {}
        for index, names in enumerate(parse(self.pattern).expand()):
            symbol = names[0] if len(names) == 1 else "{" + "".join(names) + "}"
            if len(names) > 1:
                fusion, wiring = self.fusion, PLAIN
            elif symbol in parallel:
                fusion, wiring = parallel[symbol].fusion, parallel[symbol]
                names = tuple(parallel[symbol].branches)
            else:
                fusion, wiring = None, mixers[symbol]
            branches = tuple(mixers[n].mixer for n in names)
            owner = first.setdefault(symbol, index) if wiring.shared else index
            out.append(Sublayer(index, symbol, names, branches, fusion, wiring, owner))
        return tuple(out)

    @cached_property
    def lenders(self) -> frozenset[str]:
        """Letters whose keys and values other letters have."""
        names = (getattr(x.mixer, "kv_from", None) for x in self.mixers)
        return frozenset(name for name in names if name is not None)

    def lends_as(self, letter: str) -> str:
        """Return the letter by which others have its keys and values; "" if none has them."""
        return letter if letter in self.lenders else ""

    @property
    def n_layers(self) -> int:
        """Number of residual sublayers."""
        return len(self.sublayers)

    @property
    def width_ratio(self) -> float:
        """How many times wider than its base a muP model is; 1 without muP."""
        return self.d_model / self.mup_base_width if self.mup_base_width else 1.0

    @property
    def hidden_init_std(self) -> float:
        """Spread of initial matrices between embedding and head: with muP as fan_in ** -0.5.

        All inner widths are taken to grow with d_model, so that one ratio serves every matrix.
        """
        return self.init_std * self.width_ratio**-0.5

    @property
    def logits_scale(self) -> float:
        """Factor on the logits: `logits_multiplier`, with muP over the width ratio."""
        return self.logits_multiplier / self.width_ratio


def _complete(
    mixers: dict[str, dict[str, Any]], d_model: int, n_meta: Any
) -> dict[str, dict[str, Any]]:
    """Make every size of every mixer explicit, lenders of keys before their borrowers."""
    full: dict[str, dict[str, Any]] = {}
    lenders = {k: lending.lender_in(v, mixers, f"mixers.{k}") for k, v in mixers.items()}
    for letter in sorted(mixers, key=lambda k: lenders[k] is not None):
        fields, lender = mixers[letter], lenders[letter]
        if lender is not None:
            fields = lending.with_lenders_sizes(fields, full[lender])
        fields = defaults.fill(defaults.of_letter(letter, fields), d_model, f"mixers.{letter}")
        if fields.get("kind") == "attention":
            fields = defaults.see_meta_tokens(fields, n_meta)
        full[letter] = fields
    return full


def _init_std(data: dict[str, Any], d_model: int) -> float:
    """Return the default: muP's embedding has the spread of the base width at every width."""
    base = data.get("mup_base_width") or d_model
    is_width = isinstance(base, int) and not isinstance(base, bool) and base > 0
    return (base if is_width else d_model) ** -0.5


def _used(data: dict[str, Any]) -> list[str]:
    """Letters that stand alone in the pattern."""
    return [names[0] for names in parse(data["pattern"]).expand() if len(names) == 1]


def _groups(data: dict[str, Any]) -> list[tuple[str, ...]]:
    """Branches of each sublayer written in braces."""
    return [names for names in parse(data["pattern"]).expand() if len(names) > 1]


def _refuse_wired_branches(groups: list[tuple[str, ...]], wirings: dict[str, Wiring]) -> None:
    """A branch reads what its sublayer has read, and what it gives is fused."""
    for group in groups:
        for letter in group:
            wiring = wirings.get(letter, PLAIN)
            for name in WIRING:
                if (value := getattr(wiring, name)) != getattr(PLAIN, name):
                    raise InputError(
                        f"mixers.{letter}.{name} = {value!r}: letter '{letter}' is a branch of "
                        f"'{''.join(group)}'; {name} belongs to a sublayer: declare it in "
                        "[parallel] for a letter that names these branches"
                    )


def _refuse_nesting(groups: list[tuple[str, ...]], parallel: dict[str, Any]) -> None:
    for group in groups:
        for letter in group:
            if letter in parallel:
                raise InputError(
                    f"branches '{''.join(group)}': letter '{letter}' names a parallel sublayer; "
                    "a branch must be a mixer"
                )


def _mixer(fields: dict[str, Any], where: str) -> MixerConfig:
    kind = fields["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        allowed = list(KINDS)
        raise InputError(
            f"{where}.kind = {kind!r}{nearest(str(kind), allowed)}: "
            f"allowed are {', '.join(allowed)}"
        )
    return KINDS[kind].of(fields, where)


def _fusion(
    given: Any,
    groups: list[tuple[str, ...]],
    mixers: dict[str, dict[str, Any]],
    n_meta: Any,
    where: str,
) -> Fusion:
    """Read a fusion; give its own attention the shape of the attention branch it first meets."""
    fields = given.model_dump() if isinstance(given, Config) else given
    if isinstance(fields, dict) and fields.get("combine") in ATTENDING:
        letters = (x for group in groups for x in group if x in mixers)
        kinds = ("attention", "bmojo_f", "mla")
        attention = next((mixers[x] for x in letters if mixers[x]["kind"] in kinds), {})
        if not attention and fields["combine"] == "cross_attention":
            raise InputError(
                f"{where}.combine = 'cross_attention': needs a parallel sublayer with an attention "
                "and a recurrent branch, such as {M*}"
            )
        cross = {} if fields.get("cross") is None else fields["cross"]
        if isinstance(cross, dict):
            cross = defaults.fill_cross(cross, attention, fields["combine"])
            cross = defaults.see_meta_tokens(cross, n_meta)
        fields = {**fields, "cross": cross}
    elif isinstance(fields, dict) and fields.get("cross") is not None:
        raise InputError(
            f"{where}.cross: belongs only to combine = 'cross_attention' and 'merge_attention'"
        )
    return Fusion.of(fields, where)
