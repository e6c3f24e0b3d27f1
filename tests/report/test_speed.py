"""What `braid bench` wrote, on the page: lines of every contender, errors, faults, gaps."""

from typing import Any

import pytest

from braidlm.report import build, tables
from tests.report.making import config, result, write_run


def told(name: str, value: float, stderr: float = 0.0) -> dict[str, float]:
    return {name: value, f"{name}_stderr": stderr}


def point(context: int, tokens_per_sec: float, subject: str = "braid", **fields: Any) -> Any:
    row: dict[str, Any] = {"mode": "prefill", "context": context, "batch": 2, "subject": subject}
    row |= told("tokens_per_sec", tokens_per_sec, 0.1 * tokens_per_sec) | told("mfu", 0.25, 0.01)
    row |= {"why_not": None, "n": 5, "peak_bytes": 3 * 2**20, "peak_bytes_low": 2**21}
    row["predicted"] = {"kv_bytes": 2**10, "state_bytes": 2**11, **told("tokens_per_sec", 9e4)}
    row["allocated"] = {"kv_bytes": 2**10, "state_bytes": 2**11} if subject == "braid" else {}
    return row | fields


def bench(points: list[Any], faults: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    ceiling = {"dtype": "fp32"}
    ceiling |= told("copy_bytes_per_sec", 1e10, 1e8) | told("matmul_flops_per_sec", 1e11, 2e9)
    metrics = {"tokens_per_sec": {"value": 1.0, "stderr": 0.1, "n": 5, "unit": "tokens/s"}}
    found = result("bench", "prefill-cpu-fp32", "tokens_per_sec", metrics, {}, **fields)
    found["tables"] = {"points": points, "ceilings": [ceiling]}
    found["about"] = {"device_name": "Abacus", "torch": "2.0", "threads": 3}
    found["contenders"] = {"braid": {}, "absent": {"why_not": "no peer: not installed"}}
    return found | {"faults": list(faults), "device": "cpu", "dtype": "fp32"}


def page(folder, *results: dict[str, Any]) -> tuple[dict[str, Any], str]:
    write_run(folder / "run", config(), results=list(results))
    data = tables([folder / "run"])
    return data, build([folder / "run"], folder / "page.html").read_text()


def test_measured_lines_stand_beside_what_the_ceiling_allows(tmp_path):
    points = [point(64, 1000.0), point(256, 2000.0), point(64, 500.0, "transformers bamba",
              **told("ours_over_it", 2.0, 0.1))]  # fmt: skip
    data, html = page(tmp_path, bench(points))
    (name,) = data["speed"]
    rows = data["speed"][name]["points"]
    assert [(r["context"], r["subject"]) for r in rows] == [
        (64, "braid"),
        (64, "transformers bamba"),
        (256, "braid"),
    ]
    assert rows[0]["tokens_per_sec"]["mean"] == 1000.0
    assert rows[0]["tokens_per_sec"]["item_stderr"] == 100.0
    section = html.split('id="speed"')[1].split("</section>")[0]
    assert "64 tokens: 1000 ± 100 over items" in section
    assert "arm, at the ceiling, 256 tokens" in section
    assert "transformers bamba, 64 tokens: 500 ± 50" in section
    assert "Abacus, torch 2.0, 3 threads, fp32" in section
    assert "absent: no peer: not installed" in section
    assert "copy 10.00 ± 0.10 GB/s, matrix product 100.0 ± 2.0 GFLOP/s" in section
    assert "1.00 k <small>± 100</small>" in section
    assert "25.0 % <small>± 1 %</small>" in section
    assert "2.00 MiB to 3.00 MiB" in section
    assert "measured before the end" not in html
    assert "No task has been measured yet. Speed has." in html
    assert "3.00 KiB" in section  # predicted and allocated
    assert "2.00" in section  # ours over it


def test_a_fault_is_a_warning_and_a_gap_says_why(tmp_path):
    why = {"mode": "prefill", "context": 4096, "batch": 2, "subject": "braid"}
    gap = why | {"why_not": "does not fit: needs 7 bytes"}
    _, html = page(tmp_path, bench([point(64, 10.0), gap], ("state of sublayer 0 <M>",)))
    assert "Not as declared: " in html
    assert "state of sublayer 0 &lt;M&gt;" in html
    assert "does not fit: needs 7 bytes" in html


@pytest.mark.parametrize("points", ["none", [3], [{"context": "x", "batch": 1}], []])
def test_rows_that_are_none_are_no_section(tmp_path, points):
    data, html = page(tmp_path, bench(points))
    assert data["speed"] == {}
    assert "Speed and memory" not in html
    assert "No task has been measured yet." in html
    assert "Speed has." not in html
