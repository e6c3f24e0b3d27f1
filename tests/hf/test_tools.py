"""A hybrid that no family of transformers expresses, in the hands of lm-eval, PEFT and `generate`.

They know its folder and the Auto classes, which `import braidlm.hf` taught them, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from braidlm import interop
from braidlm.errors import InputError
from braidlm.generate import generate
from braidlm.laws.lively import enliven
from braidlm.model import HybridLM
from tests.specs import FUSIONS, spec
from tests.tasks.harness.twins import tokenizer_files

transformers = pytest.importorskip("transformers", minversion="5.15.1")
transformers.utils.logging.disable_progress_bar()

import braidlm.hf  # noqa: E402, F401

PATTERN = "M-{M*}W-"
PROMPTS = ("def wrap(text):", "Once upon a time", "a")
PAIRS = [
    *[(prompt, option) for prompt in PROMPTS for option in (" the sea", " sleep, and more", "x")],
    ("A far longer text that fills several windows and chunks," * 4, " the sea"),
]
ONE_ANSWER = [
    {"text": text, "options": ["the sea and the mountain", "sleep"], "answer": i % 2}
    for i, text in enumerate(PROMPTS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[Path, HybridLM]:
    """(the exported folder with a tokenizer, our model)."""
    path = tmp_path_factory.mktemp("tools") / "model"
    before = tmp_path_factory.mktemp("tokenizer")
    declared = spec(PATTERN, fusion=FUSIONS["merge-attention"], vocab_size=tokenizer_files(before))
    model = HybridLM(declared).eval()
    enliven(model)
    interop.save(model, path, format="braid-hf")
    for file in before.iterdir():
        shutil.copy(file, path)
    return path, model


def tokenizer_of(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path)


def ids_of(path: Path, text: str) -> list[int]:
    return tokenizer_of(path).encode(text, add_special_tokens=False)


@pytest.fixture(scope="module")
def judge(folder):
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast(Any, HFLM)(
            pretrained=str(folder[0]), device="cpu", batch_size=3, add_bos_token=False
        )


def test_no_family_expresses_it(folder, tmp_path):
    with pytest.raises(InputError, match=r"'--format braid-hf' holds any declaration"):
        interop.save(folder[1], tmp_path / "no")


class TestLmEval:
    """Its backend for transformers, with names of models alone."""

    @torch.no_grad()
    def test_log_likelihoods_are_ours(self, folder, judge):
        """Batches of three are padded; each is as ours alone."""
        path, ours = folder
        asked = [SimpleNamespace(args=pair) for pair in PAIRS]
        found = judge.loglikelihood(asked, disable_tqdm=True)
        for (context, option), (value, is_greedy) in zip(PAIRS, found, strict=True):
            n = len(ids_of(path, context))
            ids = ids_of(path, context + option)
            logits = ours.head(ours(torch.tensor([ids])).hidden)[0, n - 1 : -1]
            target = torch.tensor(ids[n:])
            expected = logits.log_softmax(-1).gather(1, target[:, None]).sum()
            assert value == pytest.approx(float(expected), abs=1e-4)
            assert is_greedy == bool((logits.argmax(-1) == target).all())

    def test_generated_texts_are_ours(self, folder, judge):
        path, ours = folder
        asked = [SimpleNamespace(args=(p, {"until": [], "max_gen_toks": 8})) for p in PROMPTS]
        found = judge.generate_until(asked, disable_tqdm=True)
        made = generate(ours, [ids_of(path, p) for p in PROMPTS], max_new_tokens=8, temperature=0.0)
        assert found == [tokenizer_of(path).decode(ids) for ids in made]

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_a_task_of_a_file_is_evaluated(self, judge, tmp_path):
        import lm_eval
        from lm_eval.tasks import TaskManager

        (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, ONE_ANSWER)))
        task = {
            "task": "one_answer",
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(tmp_path / "task.jsonl")},
                "cache_dir": str(tmp_path / "cache"),
            },
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{text}}",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "answer",
        }
        made = cast(Any, lm_eval.simple_evaluate)(
            model=judge,
            tasks=[task],
            bootstrap_iters=0,
            verbosity="ERROR",
            task_manager=TaskManager(include_defaults=False),
        )
        scores = []
        for asked in ONE_ANSWER:
            pairs = [SimpleNamespace(args=(asked["text"], f" {o}")) for o in asked["options"]]
            values = [value for value, _ in judge.loglikelihood(pairs, disable_tqdm=True)]
            scores.append(values.index(max(values)) == asked["answer"])
        assert made["results"]["one_answer"]["acc,none"] == pytest.approx(sum(scores) / len(scores))


class TestAdapters:
    """PEFT's LoRA: added, trained by a step, saved, and found again on a fresh model."""

    @pytest.mark.filterwarnings("ignore")
    def test_an_adapter_of_one_step_is_saved_and_found_again(self, folder, tmp_path):
        peft = pytest.importorskip("peft")
        path, ours = folder
        ids = torch.tensor([ids_of(path, PAIRS[-1][0])])
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=2,
            init_lora_weights=False,
            target_modules=["in_proj", "out_proj"],
        )
        model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(path), config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        before = model(ids, labels=ids).loss
        before.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            after = model(ids, labels=ids)
            assert float(after.loss) < float(before)
            model.save_pretrained(tmp_path / "adapter")
            fresh = transformers.AutoModelForCausalLM.from_pretrained(path)
            again = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
            torch.testing.assert_close(again(ids).logits, after.logits)
            plain = ours.head(ours(ids).hidden)
        assert float((after.logits.detach() - plain).abs().max()) > 1e-2
        names = {f.name for f in (tmp_path / "adapter").iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors"} <= names
