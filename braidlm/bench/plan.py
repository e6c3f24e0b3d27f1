"""What is to be measured, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from braidlm.errors import InputError
from braidlm.generate.mode import weights_dtype

MODES = ("train", "prefill", "decode")
"""train: one update as `braid train` makes it; prefill: a prompt until its next token is known;
decode: a whole `generate`, of which the first token gives TTFT and the others TPOT."""
FEWEST_REPEATS = 3
"""Fewer have no quartiles."""


@dataclass(frozen=True)
class Plan:
    """One call of `braid bench`.

    Raises:
        InputError: a field outside its range.
    """

    modes: tuple[str, ...] = MODES
    """Which of `MODES`."""
    contexts: tuple[int, ...] = (1024,)
    """Tokens of a row, or of a prompt."""
    batch_sizes: tuple[int, ...] = (1,)
    """Rows at once."""
    new_tokens: int = 32
    """Tokens that `generate` makes for each prompt, the first included."""
    repeats: int = 7
    """Rounds that count; every contender runs once in each."""
    warmups: int = 3
    """Rounds before them. The first makes what stays; the others tell the memory."""
    dtype: str | None = None
    """"fp32" or "bf16". None: training as the recipe says, answers in bf16 on a GPU, else fp32."""
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    threads: int = 0
    """CPU threads; 0 is torch's own choice."""
    seed: int = 0
    """Of the tokens, and of weights that are drawn."""
    is_compiled: bool = False
    """Whether ours trains with `train.compile` and decodes by a compiled step."""
    is_recorded: bool = True
    """Whether ours decodes by CUDA graphs where it can, as `braid generate` does."""
    with_peers: bool = False
    """Whether other libraries run beside ours."""

    def __post_init__(self) -> None:
        for flag, numbers in (("contexts", self.contexts), ("batch-sizes", self.batch_sizes)):
            wrong = next((n for n in numbers if n < 1), None)
            if wrong is not None or not numbers:
                raise InputError(f"--{flag} {wrong}: must be numbers of at least 1")
        least = {"new-tokens": (self.new_tokens, 2), "repeats": (self.repeats, FEWEST_REPEATS)}
        for flag, (found, lowest) in least.items():
            if found < lowest:
                raise InputError(f"--{flag} {found}: must be at least {lowest}")
        if not 0 <= self.threads <= 1024:
            raise InputError(f"--threads {self.threads}: must be 0 (torch's choice) to 1024")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
        if self.dtype is not None:
            weights_dtype(self.dtype)
