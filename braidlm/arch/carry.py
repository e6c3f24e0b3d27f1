"""What carried states need of a recipe: said before the training, by the name of the field.

Carried on are the whole state of every recurrent mixer and the ring of every window: a document in
segments is then one long document. Attention that sees every token keeps what
`train.carry_kv_tokens` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from braidlm.arch.fusion import ATTENDING
from braidlm.arch.sources import TextSource

if TYPE_CHECKING:
    from braidlm.arch.experiment import DataConfig, TrainConfig
    from braidlm.arch.spec import Spec


def check_carry(spec: Spec, data: DataConfig, train: TrainConfig) -> None:
    """Refuse what would make carried states wrong in silence.

    Raises:
        ValueError: naming the field.
    """
    if not train.carry_states:
        if train.carry_kv_tokens is not None:
            raise ValueError(
                f"train.carry_kv_tokens = {train.carry_kv_tokens!r}: needs carry_states = true"
            )
        return
    asked = "train.carry_states = true: "
    for source in data.sources:
        if not isinstance(source, TextSource):
            raise ValueError(
                f"{asked}source '{source.name}' is of kind '{source.kind}', whose items begin anew "
                "in every row; allowed: text"
            )
    unfit = {
        "data.replay, whose rows are no lanes": data.replay is not None,
        "train.compile, which leaves calls with a state eager": train.compile,
        "train.telemetry_every, which looks at documents that begin": train.telemetry_every,
        "model.n_meta_tokens, which stand before every document": spec.n_meta_tokens,
    }
    for what, is_there in unfit.items():
        if is_there:
            raise ValueError(f"{asked}does not go with {what}")
    _check_attention(spec, train.carry_kv_tokens)


def _check_attention(spec: Spec, n_tokens: int | str | None) -> None:
    """Make the recipe say what is carried where every token is seen."""
    growing = _growing(spec)
    if growing and n_tokens is None:
        raise ValueError(
            f"train.carry_states = true: {growing[0]} sees every token of a document; say how many "
            'are carried: carry_kv_tokens = N, or "all"'
        )
    if isinstance(n_tokens, int):
        for name, why in _uncuttable(spec):
            raise ValueError(
                f"train.carry_kv_tokens = {n_tokens}: {name} {why}; allowed: 'all', or a window"
            )


def _growing(spec: Spec) -> list[str]:
    """Name what holds a cache that grows with the document."""
    letters = [
        f"letter '{x.letter}'"
        for x in spec.mixers
        if x.mixer.kind in ("attention", "mla")
        and getattr(x.mixer, "window", None) is None
        and getattr(x.mixer, "kv_from", None) is None
    ]
    return letters + _fusions(spec)


def _fusions(spec: Spec) -> list[str]:
    """Name fusions whose own attention sees every token."""
    has_braces = any(s.symbol.startswith("{") for s in spec.sublayers)
    used = {"fusion": spec.fusion} if has_braces else {}
    used |= {f"parallel.{x.letter}": x.fusion for x in spec.parallel}
    return [
        name
        for name, fusion in used.items()
        if fusion.combine in ATTENDING and fusion.cross is not None and fusion.cross.window is None
    ]


def _uncuttable(spec: Spec) -> list[tuple[str, str]]:
    """Name what cannot forget its oldest tokens exactly, and why."""
    found = [(name, "keeps its whole cache or none of it") for name in _fusions(spec)]
    for x in spec.mixers:
        where, mixer = f"letter '{x.letter}'", x.mixer
        if mixer.kind == "mla":
            found.append((where, "keeps latents, which are not turned back"))
        elif getattr(mixer, "window", None) is None and mixer.kind == "attention":
            if getattr(mixer, "kv_from", None) is not None:
                found.append((where, "reads keys of another letter (kv_from)"))
            if getattr(mixer, "position_scale", None) is not None:
                found.append((where, "counts its position in the whole document (position_scale)"))
    return found
