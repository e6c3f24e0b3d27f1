"""`braid conform`: exit codes, lines, JSON and the page."""

import json

from tests.cli.conftest import TINY

FEW = ("--laws", "causality,steps", "--lengths", "3,9")


def test_a_run_that_obeys_is_code_0_with_a_line_per_law(braid, run, tmp_path):
    page = tmp_path / "deep" / "page.html"
    found = braid("conform", run, *FEW, "-o", page)
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["pass", "causality"], ["pass", "steps"]]
    assert "2 of 2 applicable laws hold" in lines[2]
    assert lines[3] == str(page)
    assert "braid conform" in page.read_text() or "pytest" in page.read_text()


def test_a_law_that_fails_is_code_1(braid):
    words = ("conform", TINY, "--random-weights", *FEW, "--dtype", "bf16", "--tolerance", "0")
    found = braid(*words)
    assert found.code == 1
    assert "FAIL" in found.out
    assert "1 of 2 applicable laws hold; steps fails." in found.out


def test_json_is_one_object(braid):
    found = braid("conform", "M*-", "--random-weights", *FEW, "--json")
    data = json.loads(found.out)
    assert data["ok"] is True
    assert [v["law"] for v in data["verdicts"]] == ["causality", "steps"]
    assert data["settings"]["lengths"] == [3, 9]


def test_weights_are_drawn_from_the_seed(braid):
    words = ("conform", "M-", "--random-weights", *FEW, "--json", "--seed")

    def errors(seed):
        data = json.loads(braid(*words, seed).out)
        return [v["error"] for v in data["verdicts"]]

    assert errors(1) == errors(1) != errors(2)


def test_bad_input_is_one_sentence(refused, tmp_path):
    refused("conform", tmp_path / "nothing", says="no such folder")
    refused("conform", "M-", "--random-weights", "--laws", "x", says="'x' is no law")
    refused("conform", "M-", "--random-weights", "--lengths", "3,x", says="--lengths 3,x")
    refused("conform", "M-", "--random-weights", "-o", tmp_path, says="is a directory")
    refused("conform", "M-", "--random-weights", "--lengths", 10**11, says="too large")
    refused("conform", "M?", "--random-weights", says="?")
    words = ("conform", "kimi_lineal", "--random-weights", "--tiny")
    refused(*words, says="did you mean 'kimi_linear'?")
