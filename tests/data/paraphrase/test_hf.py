"""Local models: what they are asked, where an answer ends, and streams that no batch changes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from braidlm.cli.main import main
from braidlm.data.paraphrase.folder import read_manifest, read_pairs, read_rejected
from braidlm.data.paraphrase.hf import HF, HFConfig
from braidlm.data.paraphrase.hf_model import Draw, LocalModel
from braidlm.data.paraphrase.method import Passage
from braidlm.data.paraphrase.reading import TextInput
from braidlm.errors import InputError

from ..conftest import WORDS, write_jsonl

transformers = pytest.importorskip("transformers", minversion="5.15.1")
transformers.utils.logging.disable_progress_bar()

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEXTS = [" ".join(WORDS[(i + j) % 12] for j in range(3 + i % 5)) for i in range(7)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Words, with "</s>" as what ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "</s>", "<assistant>", "<user>", "<system>", ":", "say", *WORDS]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<unk>", "</s>", "<assistant>", "<user>", "<system>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", unk_token="<unk>"
    )


def folder_of(path: Path, tokenizer: Any, kind: str, **fields: Any) -> str:
    """A tiny model with random weights that are large enough to prefer some words."""
    torch.manual_seed(5)
    usual: dict[str, Any] = {"vocab_size": len(tokenizer), "eos_token_id": 1, "pad_token_id": 1}
    if kind == "t5":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        config = transformers.T5Config(**usual, **sizes, decoder_start_token_id=0, **fields)
        model = transformers.T5ForConditionalGeneration(config)
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
        config = transformers.LlamaConfig(**usual, **sizes, **heads, **fields)
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.6)
    # What its makers propose must not change what we asked for.
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=1, do_sample=True, temperature=5.0, repetition_penalty=3.0, num_beams=1
    )
    if kind == "t5":
        model.generation_config.decoder_start_token_id = 0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    return folder_of(tmp_path_factory.mktemp("llama"), tokenizer, "llama")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    return folder_of(tmp_path_factory.mktemp("t5"), tokenizer, "t5")


def method(folder: str, **fields: Any) -> HF:
    usual = {"model": folder, "prompt": "say : {text} :", "max_tokens": 12, "device": "cpu"}
    return HF(HFConfig.of({**usual, **fields}, "--method hf"), TextInput(path="none"), seed=0)


def drafts(folder: str, texts: list[str] = TEXTS, **fields: Any) -> list[list[tuple[str, str]]]:
    passages = [Passage(f"t{text}", text) for text in texts]
    found = method(folder, **fields).paraphrase(passages)
    return [[(draft.text, draft.reason) for draft in some] for some in found]


@torch.no_grad()
def by_hand(folder: str, text: str, is_seq2seq: bool) -> list[int]:
    """The most probable token, one forward pass over everything for each."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(f"say : {text} :", return_tensors="pt").input_ids
    auto: Any = transformers.AutoModelForCausalLM
    auto = transformers.AutoModelForSeq2SeqLM if is_seq2seq else auto
    model = auto.from_pretrained(folder).eval()
    new = [0] if is_seq2seq else []
    for _ in range(12):
        if is_seq2seq:
            out = model(input_ids=prompt, decoder_input_ids=torch.tensor([new]))
        else:
            out = model(torch.cat([prompt, torch.tensor([new], dtype=torch.int64)], 1))
        new.append(int(out.logits[0, -1].argmax()))
        if new[-1] == 1:
            break
    return new[1:] if is_seq2seq else new


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_greedy_is_what_a_loop_gives_whatever_the_batch(kind, request):
    folder = request.getfixturevalue(kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = [drafts(folder, batch_size=n, temperature=0.0) for n in (1, 3, 7)]
    assert found[0] == found[1] == found[2]
    for text, [(draft, reason)] in zip(TEXTS, found[0], strict=True):
        ids = by_hand(folder, text, kind == "t5")
        is_cut = ids[-1] != 1
        assert reason.startswith("truncated") == is_cut
        expected = tokenizer.decode(ids if is_cut else ids[:-1], skip_special_tokens=True)
        assert draft == expected.strip()
    ended = [reason for [(_, reason)] in found[0] if not reason.startswith("truncated")]
    assert 0 < len(ended) < len(TEXTS) or kind == "t5"


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_draw_depends_on_the_text_and_its_number_alone(kind, request):
    folder = request.getfixturevalue(kind)
    usual = {"temperature": 1.5, "n": 3}
    found = [drafts(folder, batch_size=n, **usual) for n in (1, 4)]
    assert found[0] == found[1]
    assert drafts(folder, TEXTS[2:4], **usual) == found[0][2:4]
    assert drafts(folder, TEXTS[::-1], **usual) == found[0][::-1]
    assert any(len(set(some)) > 1 for some in found[0])


class TestDraw:
    def test_it_is_distributed_as_the_softmax(self):
        logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
        n = 20_000
        draw = Draw(range(n), temperature=2.0, top_p=1.0)
        chosen = draw(torch.zeros(n, 1), logits.expand(n, -1)).argmax(-1)
        share = torch.bincount(chosen, minlength=4) / n
        expected = (logits / 2).softmax(-1)
        # Six standard errors of a share.
        assert ((share - expected).abs() < 6 * (expected * (1 - expected) / n).sqrt()).all()

    def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(self):
        logits = torch.tensor([0.1, 0.5, 0.3, 0.1]).log()
        for top_p, allowed in ((0.49, {1}), (0.51, {1, 2}), (0.79, {1, 2}), (0.95, {0, 1, 2, 3})):
            draw = Draw(range(400), temperature=1.0, top_p=top_p)
            chosen = draw(torch.zeros(400, 1), logits.expand(400, -1)).argmax(-1)
            assert set(chosen.tolist()) == allowed

    def test_a_row_goes_on_with_its_stream(self):
        scores = torch.zeros(1, 50)
        draw = Draw([3], 1.0, 1.0)
        chosen = [int(draw(scores, scores).argmax()) for _ in range(20)]
        assert len(Counter(chosen)) > 5


class TestPrompt:
    def test_a_chat_template_is_used_where_there_is_one(self, tmp_path, tokenizer):
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", unk_token="<unk>"
        )
        tokenizer.chat_template = CHAT
        model = LocalModel(folder_of(tmp_path, tokenizer, "llama"), "cpu", "fp32")

        def written(system: str, is_chat: bool) -> str:
            return tokenizer.decode(model.prompt("the fox", system, is_chat))

        assert written("", True) == "<user> the fox </s> <assistant>"
        assert written("say", True) == "<system> say </s> <user> the fox </s> <assistant>"
        assert written("", False) == "the fox"
        assert method(str(tmp_path), system="say").workers == 1

    def test_a_system_message_without_a_template_is_refused(self, llama):
        with pytest.raises(InputError, match="system: goes into a chat template"):
            method(llama, system="say")

    def test_a_template_that_refuses_is_one_sentence(self, tmp_path, tokenizer):
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", unk_token="<unk>"
        )
        tokenizer.chat_template = "{{ raise_exception('no system, please') }}"
        with pytest.raises(InputError, match="template cannot be used: no system, please"):
            method(folder_of(tmp_path, tokenizer, "llama"))

    def test_what_is_too_long_is_not_cut_but_rejected(self, tmp_path, tokenizer):
        folder = folder_of(tmp_path, tokenizer, "llama", max_position_embeddings=20)
        [[(text, reason)], [(other, fine)]] = drafts(folder, ["the fox over a dog dog", "the fox"])
        assert (text, reason) == ("", "too_long: 21 tokens of 20")
        assert other
        assert not fine.startswith("too_long")


def test_the_command_makes_a_folder_and_goes_on(tmp_path, llama, capsys):
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    words = ["paraphrase", str(source), "--method", "hf", "--out", str(tmp_path / "out"), "--quiet"]
    fields = {"model": llama, "prompt": "say {text}", "max_tokens": 6, "gate.max_distance": 1}
    words += [word for k, v in fields.items() for word in ("--set", f"{k}={v}")]
    assert main(words) == 0
    capsys.readouterr()
    manifest = read_manifest(tmp_path / "out")
    assert manifest["counts"]["read"] == len(TEXTS)
    assert "batch_size" not in manifest["settings"]
    before = [*read_pairs(tmp_path / "out")]
    assert main([*words, "--set", "batch_size=2"]) == 0
    assert [*read_pairs(tmp_path / "out")] == before
    assert main([*words, "--set", "top_p=0.5"]) == 2
    assert "settings.top_p = 1.0, not 0.5" in capsys.readouterr().err


def test_one_of_our_own_models_writes_too(tmp_path, tokenizer):
    from braidlm import interop
    from braidlm.model import HybridLM
    from tests.specs import spec

    ours = HybridLM(spec("M*-", vocab_size=len(tokenizer))).eval()
    interop.save(ours, tmp_path / "model", format="braid-hf")
    tokenizer.save_pretrained(tmp_path / "model")
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    words = ["paraphrase", str(source), "--method", "hf", "--out", str(tmp_path / "out"), "--quiet"]
    fields = {"model": tmp_path / "model", "max_tokens": 4, "batch_size": 3, "temperature": 2.0}
    assert main(words + [word for k, v in fields.items() for word in ("--set", f"{k}={v}")]) == 0
    lines = [*read_pairs(tmp_path / "out"), *(pair for pair, _ in read_rejected(tmp_path / "out"))]
    assert sorted(pair.text for pair in lines) == sorted(TEXTS)
    assert len({pair.paraphrase for pair in lines}) > 1


class TestRefusals:
    def test_no_folder(self):
        with pytest.raises(InputError, match="model 'nowhere/here': must be a folder"):
            method("nowhere/here")

    @pytest.mark.parametrize("config", [None, {}, {"model_type": "no_such_kind"}])
    def test_no_model(self, tmp_path, config):
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="transformers cannot load it: "):
            method(str(tmp_path))

    def test_no_end(self, tmp_path, tokenizer):
        bare = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>"
        )
        folder = folder_of(tmp_path, bare, "llama")
        for name in ("config.json", "generation_config.json"):
            found = json.loads((tmp_path / name).read_text())
            (tmp_path / name).write_text(json.dumps({**found, "eos_token_id": None}))
        with pytest.raises(InputError, match="names no token that ends a text"):
            method(folder)
