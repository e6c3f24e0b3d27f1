"""How much memory reading and writing take, measured in a process of their own."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from tests.interop.folders import LLAMA

MIB = 2**20
WIDTH, LAYERS, VOCAB = 640, 22, 512
ROWS = {
    "input_layernorm.weight": (WIDTH,),
    "post_attention_layernorm.weight": (WIDTH,),
    **{f"self_attn.{x}_proj.weight": (WIDTH, WIDTH) for x in "qkvo"},
    **{f"mlp.{x}_proj.weight": (3 * WIDTH // 2, WIDTH) for x in ("gate", "up")},
    "mlp.down_proj.weight": (WIDTH, 3 * WIDTH // 2),
}
MEASURE = """
import json, os, re, sys
import torch
from braidlm import HybridLM, Spec, interop
from braidlm.interop import names, weights, folder
from braidlm.interop.families import FAMILIES

def peak():
    # getrusage would begin with what the process that started this one held.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def measured(work, *places):
    # A fork has every import behind it; its peak begins with what it was born with.
    pid = os.fork()
    if not pid:
        before = peak()
        kept = work(*places)
        print(json.dumps(peak() - before), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

torch.set_num_threads(1)  # a fork has no threads but its own
with torch.device("meta"):  # what PyTorch needs for shapes alone: sympy, dynamo, triton
    HybridLM(Spec.parse("*-", d_model=32, vocab_size=99))
path, run, out = sys.argv[1:]
measured(interop.load, path)
measured(interop.import_run, path, run)
measured(interop.export_run, run, out)
"""


def measured(*places) -> list[float]:
    words = [sys.executable, "-c", MEASURE, *map(str, places)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_tensor_is_held_twice(tmp_path):
    """308 MB in fp32. Measured, in shares of the model, beyond what PyTorch loads to know shapes
    without memory: load 1.09; import 0.10; export 0.10, of each 0.05 for pages of libraries that a
    fork maps again.
    """
    shapes = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes |= {f"model.layers.{i}.{k}": v for i in range(LAYERS) for k, v in ROWS.items()}
    config = LLAMA | {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH // 2,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "head_dim": WIDTH // 10,
        "tie_word_embeddings": True,
    }
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    n_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
    save_file(tensors, folder / "model.safetensors")
    del tensors
    assert 280 * MIB < n_bytes < 320 * MIB
    shares = [n / n_bytes for n in measured(folder, tmp_path / "run", tmp_path / "b")]
    loading, importing, exporting = shares
    print(f"load {loading:.2f}, import {importing:.2f}, export {exporting:.2f}")
    assert loading < 1.2
    assert importing < 0.15
    assert exporting < 0.15
