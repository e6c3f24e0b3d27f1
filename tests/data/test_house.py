import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_only_what_makes_batches_needs_torch():
    batches = {"mixture", "lanes"}
    names = sorted({p.stem for p in (ROOT / "braidlm/data").glob("*.py")} - batches)
    imports = "; ".join(f"import braidlm.data.{name}" for name in names if name != "__init__")
    code = f"{imports}; import sys; print([m for m in ('torch', 'tokenizers') if m in sys.modules])"
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_page_about_data_tells_the_truth(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    blocks[0] = blocks[0].replace("10_000", "10")
    # Cached in the folder of the test: this one tokenises the machine's own documentation.
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks), {})
    pairs = [json.loads(line) for line in Path("phonebook.jsonl").read_text().splitlines()]
    assert len(pairs) == 10
    assert all(number in p["prompt"] for p in pairs for number in re.findall(r"\d+", p["answer"]))
    shown = capsys.readouterr().out
    assert "torch.Size([10, 256]) {'text': 8, 'mqar': 2}" in shown
    assert shown.splitlines()[0].endswith(" 515")
