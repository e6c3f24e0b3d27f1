"""Our models as lm-evaluation-harness's ``LM``, under the name "braidlm".

    python -m braidlm.tasks.harness --model braidlm --model_args run=runs/x --tasks hellaswag

is the harness's own command line with our model in its list; from Python

    from braidlm.tasks.harness.model import register
    register()
    lm_eval.simple_evaluate(model="braidlm", model_args="run=runs/x", tasks=["hellaswag"])
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import nn

from braidlm.arch.kept import within
from braidlm.arch.recipe import Recipe
from braidlm.data.tokenizer import Tokenizer, load_tokenizer
from braidlm.device import choose_device
from braidlm.errors import InputError
from braidlm.generate.mode import choose_dtype, inference
from braidlm.tasks.greedy import steps_kept
from braidlm.tasks.harness import harness
from braidlm.tasks.harness.requests import Asking, generated, loglikelihood, rolling
from braidlm.tasks.opening import choose_checkpoint, load_asked, open_run
from braidlm.tasks.scoring import check_vocabulary

NAME = "braidlm"
"""What the harness calls our models."""


class RunModel:
    """A run, trained here or imported, that answers the harness's requests.

    Args:
        run: the run directory, or a model in memory together with `tokenizer` and `seq_len`.
        checkpoint: name of a folder in the run's ``checkpoints``; None: the newest.
        device: "auto", "cpu" or "cuda"; None: the recipe's.
        dtype: "fp32" or "bf16"; None: fp32 on a CPU, as trained on a GPU.
        batch_size: requests of one forward pass; None or "auto": as many tokens as the tasks of
            this package take together.
        max_batch_size: not read: the harness hands it to every model.
        max_length: tokens of a context and its continuation; longer contexts are cut from the
            left. None: nothing is cut, whatever length the model was trained at, and texts of
            perplexity tasks are read in windows of the trained length.
        add_bos: whether bos opens every text.
        tokenizer: of a model in memory.
        seq_len: trained length of a model in memory.

    Raises:
        InputError: no run, no such checkpoint, no tokenizer, or a setting outside its range.
    """

    def __init__(
        self,
        run: str | nn.Module,
        checkpoint: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        add_bos: bool = True,
        tokenizer: Tokenizer | None = None,
        seq_len: int = 2048,
    ) -> None:
        super().__init__()
        size = None if batch_size in (None, "auto") else int(batch_size)
        for name, value in (("batch_size", size), ("max_length", max_length)):
            if value is not None and value < 1:
                raise InputError(f"{name} = {value}: must be at least 1")
        if isinstance(run, nn.Module):
            if tokenizer is None:
                raise InputError("tokenizer: a model in memory needs one")
            self.model, self.text_tokenizer, self.dtype = run, tokenizer, dtype or "fp32"
        else:
            seq_len = self._open(run, checkpoint, device, dtype)
        self.asking = Asking(add_bos, max_length, seq_len, size)

    def _open(
        self, path: str, checkpoint: str | None, device: str | None, dtype: str | None
    ) -> int:
        """Load the model of a run; return the length that it was trained at."""
        run = open_run(path)
        recipe = within(Recipe.from_dict(run.config, str(run.path / "config.json")), run.path)
        # The harness's command line says so where nobody has chosen.
        chosen = "auto" if device == "cuda:0" else device
        place = choose_device(chosen or recipe.train.device)
        self.dtype = choose_dtype(dtype, place, recipe.train.precision)
        self.text_tokenizer = load_tokenizer(recipe.data.tokenizer)
        check_vocabulary(self.text_tokenizer, recipe)
        self.model = load_asked(run, recipe, choose_checkpoint(run, checkpoint), place)
        return recipe.data.seq_len

    @property
    def tokenizer_name(self) -> str:
        """What tells its requests from those of another tokenizer."""
        return f"{self.text_tokenizer.name}-{self.text_tokenizer.fingerprint[:16]}"

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log p of the continuation in nats, whether it is the greedy one) of each."""
        texts = [request.args for request in requests]
        with inference(self.model, self.dtype), Bar(len(texts), disable_tqdm) as told:
            found = loglikelihood(self.model, self.text_tokenizer, texts, self.asking, told)
        self._keep("loglikelihood", requests, [tuple(one) for one in found])
        return [(one.logprob, one.is_greedy) for one in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return log p of each whole text in nats."""
        texts = [request.args[0] for request in requests]
        with inference(self.model, self.dtype), Bar(len(texts), disable_tqdm):
            found = rolling(self.model, self.text_tokenizer, texts, self.asking)
        self._keep("loglikelihood_rolling", requests, found)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return how each context goes on, up to its stop."""
        asked = [request.args for request in requests]
        with (
            inference(self.model, self.dtype),
            steps_kept(),
            Bar(len(asked), disable_tqdm) as told,
        ):
            found = generated(self.model, self.text_tokenizer, asked, self.asking, told)
        self._keep("generate_until", requests, found)
        return found

    def _keep(self, what: str, requests: Sequence[Any], found: Sequence[Any]) -> None:
        """Tell the harness's cache, which it may have put in."""
        hook: Any = getattr(self, "cache_hook", None)
        for request, one in zip(requests, found, strict=True):
            if hook is not None:
                hook.add_partial(what, request.args, one)


class Bar:
    """The harness's own kind of progress bar."""

    def __init__(self, total: int, is_off: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, disable=is_off, desc="requests")

    def __enter__(self) -> Bar:
        return self

    def __call__(self, n: int) -> None:
        """Tell that `n` more requests are answered."""
        self._bar.update(n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()


@cache
def register() -> type:
    """Put "braidlm" into the harness's list of models; return the class that stands there.

    Raises:
        InputError: the harness is not installed.
    """
    harness()
    from lm_eval.api.model import LM
    from lm_eval.api.registry import model_registry

    made = type("BraidLM", (RunModel, LM), {"__doc__": RunModel.__doc__})
    model_registry.register(NAME, target=made)
    return made
