"""Our model in lm-evaluation-harness against its own backend for transformers, same weights.

Measured: log-likelihoods differ by 1.2e-5 nats at most, and no decision does.
"""

import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from braidlm.tasks.harness.model import register
from tests.tasks.harness.twins import MODELS, twins

QUESTIONS = {
    "Question: Why is the sky blue?\nAnswer:": (" Air scatters it.", " It is not.", " A", " B"),
    "The old man went to": (" the sea", " sleep", " the sea and the mountain of fire"),
    "A context that ends with spaces  ": ("yes", "no"),
    "": ("It began as nothing", " With a space"),
    " ": ("only spaces before it",),
    "naïve € ": ("emoji 🙂 after",),
}
PAIRS = [(context, option) for context, options in QUESTIONS.items() for option in options]
TEXTS = ["A short one.", "A far longer text that fills several windows. " * 6, "x"]
PROMPTS = ("def wrap(text):\n", "Once upon a time", "Once upon a time there was")


def _requests(arguments: list[Any]) -> list[Any]:
    return [SimpleNamespace(args=found) for found in arguments]


@pytest.fixture(
    scope="module",
    params=[pytest.param(f, marks=pytest.mark.slow) if f == "Bamba" else f for f in MODELS],
)
def pair(request, tmp_path_factory):
    """(their backend, ours), both without windows shorter than a context."""
    from lm_eval.models.huggingface import HFLM

    theirs, ours = twins(request.param, tmp_path_factory.mktemp(request.param))

    def made(add_bos: bool, max_length: int | None = None) -> tuple[Any, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            judge = cast(Any, HFLM)(
                pretrained=str(theirs),
                device="cpu",
                dtype="float32",
                batch_size=1,
                add_bos_token=add_bos,
                max_length=max_length,
            )
        return judge, register()(run=str(ours), max_length=max_length, add_bos=add_bos)

    return made


def _agree(theirs: list[tuple[float, bool]], ours: list[tuple[float, bool]]) -> None:
    assert [ours[0] for ours in ours] == pytest.approx([one[0] for one in theirs], abs=1e-4)
    assert [one[1] for one in ours] == [one[1] for one in theirs]
    assert {type(value) for one in ours for value in one} == {float, bool}


@pytest.mark.parametrize("add_bos", [True, False])
def test_loglikelihoods_and_decisions_agree(pair, add_bos):
    judge, ours = pair(add_bos)
    asked = _requests([p for p in PAIRS if add_bos or p[0] != " "])  # theirs needs a token
    theirs, found = judge.loglikelihood(asked, disable_tqdm=True), ours.loglikelihood(asked, True)
    _agree(theirs, found)
    assert len({round(one[0], 3) for one in found}) == len(found)


def test_a_context_that_is_too_long_is_cut_from_the_left(pair):
    judge, ours = pair(True, 24)
    asked = _requests([p for p in PAIRS if p[0] != " "])
    _agree(judge.loglikelihood(asked, disable_tqdm=True), ours.loglikelihood(asked, True))


@pytest.mark.parametrize("max_length", [7, 500])
def test_rolling_agrees(pair, max_length):
    judge, ours = pair(False, max_length)  # with bos theirs predicts bos after bos
    asked = _requests([(text,) for text in TEXTS])
    theirs = judge.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked, True) == pytest.approx(theirs, abs=1e-3)


def test_bos_opens_a_rolled_text_once_whether_it_is_asked_for_or_not(pair):
    asked = _requests([(text,) for text in TEXTS])
    found = [pair(add_bos, 7)[1].loglikelihood_rolling(asked, True) for add_bos in (True, False)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("max_length", "add_bos"), [(None, True), (20, True), (None, False)])
def test_generated_texts_agree_up_to_their_stops(pair, max_length, add_bos):
    judge, ours = pair(add_bos, max_length)
    free = _requests([(text, {"until": [], "max_gen_toks": 12}) for text in PROMPTS])
    whole = ours.generate_until(free, True)
    assert whole == judge.generate_until(free, disable_tqdm=True)
    stops = [text[4:6] for text in whole]
    cut = [text[: text.index(stop)] for text, stop in zip(whole, stops, strict=True)]
    asked = [
        (text, {"until": [stop, "never"], "max_gen_toks": 12, "do_sample": False})
        for text, stop in zip(PROMPTS, stops, strict=True)
    ]
    assert ours.generate_until(_requests(asked), True) == cut
    assert judge.generate_until(_requests(asked), disable_tqdm=True) == cut
    assert min(map(len, whole)) > 6
    assert max(map(len, cut)) > 2
