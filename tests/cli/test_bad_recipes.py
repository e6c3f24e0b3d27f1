"""Recipes and overrides that cannot be: refused before anything is written."""

import pytest

BAD = {
    "modle.x=1": "unknown field 'modle' (did you mean 'model'?)",
    "train.stepps=4": "unknown field 'stepps' (did you mean 'steps'?)",
    "model.mixers.M.dstate=1": "unknown field 'dstate' (did you mean 'd_state'?)",
    "train.steps": "must look like a.b=value",
    "=3": "must look like a.b=value",
    "data.sources.5.path=x": "'5' is no entry of this list; allowed: text, mqar",
    "train.steps.x=3": "'x' lies inside a plain value (4)",
    "model.d_model=0": "d_model = 0: must be a whole number of at least 1",
    "model.d_model=-8": "d_model = -8",
    "model.d_model=wide": "d_model = 'wide'",
    "model.d_model=33": "must divide expand * d_model = 66",
    "model.mixers.M.d_state=0": "mixers.M.d_state = 0",
    "model.mixers.M.d_state=-2": "mixers.M.d_state = -2",
    "model.mixers.M.head_dim=7": "head_dim = 7: must divide",
    "model.mixers.*.n_heads=0": "n_heads = 0",
    "model.mixers.*.n_kv_heads=3": "n_kv_heads = 3: must divide",
    "model.mixers.M.n_groups=3": "n_groups = 3: must divide",
    "model.mixers.M.kind=mamba7": "kind = 'mamba7' (did you mean 'mamba2'?)",
    "model.mixers.M=3": "mixers.M = 3: must be a table of fields",
    "model.pattern=M|M": "'|' is Megatron's",
    "model.vocab_size=100": "must not exceed the model's vocab_size = 100",
    "model=3": "model = 3",
    "train.steps=0": "train.steps = 0",
    "train.lr=nan": "train.lr = nan",
    "train.micro_batch_size=3": "must divide batch_size = 4",
    "train.batch_size=1000000000000000": "less than or equal to 1048576",
    "train.threads=100000": "train.threads = 100000",
    "train.device=tpu": "'auto', 'cpu' or 'cuda'",
    "seed=-1": "seed = -1",
    "seed=99999999999999999999999": "seed = 99999999999999999999999",
    "seed=" + "9" * 5000: "seed = '9999",
    "data.seq_len=1": "data.seq_len = 1",
    "data.held_out=1.5": "data.held_out = 1.5",
    "data.held_out=0": "task 'held-out' reads held-out documents: data.held_out = 0",
    "data.sources=[]": "data.sources = ()",
    "data.sources.0.kind=video": "kind = 'video': allowed are 'text', 'pairs'",
    "data.sources.0.path=": "path = ''",
    'data.sources.0.path="a\\u0000b"': r"data.sources.0.path: 'a\x00b' holds a NUL character",
    'data.cache_dir="a\\u0000b"': r"data.cache_dir: 'a\x00b' holds a NUL character",
    'data.tokenizer="a\\u0000b"': r"data.tokenizer: 'a\x00b' holds a NUL character",
    "data.sources.0.documents=page": "'file', 'line' or 'blank-line'",
    "data.sources.0.files=x": "data.sources.0.files = 'x'",
    "data.sources.0.split=test": "split = 'test': only for a path that begins with 'hf:'",
    "data.sources.mqar.n_pairs=[]": "n_pairs = ()",
    "data.sources.mqar.n_pairs=[40]": "n_pairs = 40: must be between 1 and 31",
    "data.sources.mqar.n_pairs=[9]": "length = 32: must be at least 36 for 9 pairs",
    "data.sources.mqar.length=1000": "longer than seq_len = 64",
    "data.sources.mqar.token_offset=1000": "token_offset + vocab_size = 1064",
    "tasks.lm.source=nope": "source = 'nope' is no text source of this recipe; allowed: text",
    "tasks.lm.kind=quiz": "tasks.0.kind = 'quiz': allowed are 'lm', 'longtext', 'mqar', ",
    "tasks.lm.name=a/b": "name = 'a/b'",
    "tasks.lm.seq_len=1": "seq_len = 1",
    "tasks.mqar.n_pairs=[40]": "task 'recall': n_pairs = 40: must be between 1 and 31",
    "tasks.mqar.n_pairs=[9]": "task 'recall': length = 32: must be at least 36",
    "tasks.mqar.length=5": "task 'recall': length = 5: must be at least 16",
}


@pytest.mark.parametrize("override", BAD, ids=lambda s: s[:40])
def test_a_bad_override_is_named_before_anything_is_written(refused, recipe, override):
    refused("train", recipe, "--out", recipe.parent / "run", "--set", override, says=BAD[override])
    assert not (recipe.parent / "run").exists()
    assert not (recipe.parent / "cache").exists()


FILES = {
    "missing": (None, "cannot be read (No such file or directory)"),
    "folder": ("folder", "cannot be read (Is a directory)"),
    "binary": (bytes(range(256)), "is not valid TOML"),
    "unclosed": (b"[model\n", "is not valid TOML (Expected ']'"),
    "empty": (b"", "this field is required"),
    "no-data": (b'[model]\npattern = "M"\n', "data: this field is required"),
    "deep": (b"a = " + b"[" * 5000, "is not valid TOML"),
    "long": (b"seed = " + b"9" * 5000, "is not valid TOML"),
}


@pytest.mark.parametrize("command", ["train", "data build", "data inspect"])
@pytest.mark.parametrize("case", FILES)
def test_a_bad_recipe_file_is_named(refused, tmp_path, case, command):
    content, says = FILES[case]
    path = tmp_path / f"{case}.toml"
    if content == "folder":
        path.mkdir()
        says = says if command == "train" else "is not a run directory: config.json is missing"
    elif content is not None:
        path.write_bytes(content)
    out = ["--out", tmp_path / "run"] if command == "train" else []
    refused(*command.split(), path, *out, says=(f"{case}.toml", says))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100000, "not readable as JSON"),
        (b"[]", "must be a table with a 'model'"),
        (b'{"model": {}}', "model"),
    ],
)
def test_a_bad_config_is_named(refused, tmp_path, content, says):
    (tmp_path / "config.json").write_bytes(content)
    refused("describe", tmp_path / "config.json", says=("config.json", says))


@pytest.mark.parametrize("n", ["0", "-1"])
def test_a_look_at_no_rows_is_refused(refused, recipe, n):
    refused("data", "inspect", recipe, "-n", n, says=f"n = {n} rows must be at least 1")
