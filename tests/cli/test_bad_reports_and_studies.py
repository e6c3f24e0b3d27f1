"""Reports of what is broken or in places that cannot be written; studies that cannot be."""

import json

import pytest

from tests.cli.conftest import contents

# reports


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"schema_version": 1, "kind": "lm", "name": "held-out"}',
        '{"schema_version": 1, "kind": "lm", "metrics": 5}',
        '{"schema_version": 1, "kind": "lm", "metrics": {"bits_per_byte": 5}}',
        '{"schema_version": 1, "kind": "lm", "value": 1, "tables": {"by_position": [5]}}',
    ],
)
def test_a_broken_result_is_reported_and_the_others_shown(braid, run, tmp_path, content):
    (run / "results" / "lm-held-out.json").write_text(content)
    assert braid("report", run, "-o", tmp_path / "r.html").code == 0
    assert "lm-held-out.json" in (tmp_path / "r.html").read_text()
    figures = json.loads(braid("report", run, "--json").out)
    assert "lm-held-out.json" in json.dumps(figures["problems"])
    assert figures["arms"][0]["metrics"]["mqar-recall.accuracy"]["n_items"] == 4


@pytest.mark.parametrize("version", ["2", "null"])
def test_a_result_of_another_version_is_refused(refused, run, version):
    file = run / "results" / "lm-held-out.json"
    file.write_text(f'{{"schema_version": {version}}}')
    refused("report", run, "--json", says=("lm-held-out.json", "schema_version", "reads 1"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "study.json cannot be read"),
        ("[]", "holds a list"),
        ("{}", "schema_version None"),
        ('{"schema_version": 1}', "no readable run"),
        ('{"schema_version": 1, "arms": 5}', "must be lists"),
        ('{"schema_version": 1, "arms": ["a"], "runs": {"a/seed-0": 5}}', "an object of objects"),
        ('{"schema_version": 1, "arms": ["a"], "seeds": 5}', "must be lists"),
    ],
)
def test_a_broken_study_is_named(refused, tmp_path, content, says):
    (tmp_path / "study.json").write_text(content)
    refused("report", tmp_path, "-o", tmp_path / "r.html", says=says)
    assert not (tmp_path / "r.html").exists()


def test_where_a_report_may_go(braid, refused, trained, tmp_path):
    (tmp_path / "file").write_text("mine")
    words = ("report", trained / "run", "-o")
    refused(*words, tmp_path, says=(str(tmp_path), "is a directory"))
    refused(*words, tmp_path / "file" / "r.html", says="file")
    refused(*words, "/proc/nowhere/r.html", says="/proc/nowhere")
    refused(*words, tmp_path / "r.html", "--context", "0", says="context = 0: must be at least 1")
    assert contents(tmp_path) == {"file": b"mine"}
    assert braid(*words, tmp_path / "new" / "folder" / "r.html").code == 0
    assert (tmp_path / "new" / "folder" / "r.html").read_text().endswith("</html>\n")


def test_a_device_is_written_and_not_replaced(braid, trained, tmp_path):
    (tmp_path / "out.html").symlink_to("/dev/null")
    assert braid("report", trained / "run", "-o", tmp_path / "out.html").code == 0
    assert (tmp_path / "out.html").is_symlink()


# studies

HEAD = 'name = "x"\nrecipe = "recipe.toml"\n'
ARM = '[[arms]]\nname = "a"\n'
STUDIES = {
    "no toml": ("name", "is not valid TOML"),
    "empty": ("", "this field is required"),
    "no recipe": ('name = "x"\n' + ARM, "recipe: this field is required"),
    "missing recipe": ('name = "x"\nrecipe = "none.toml"\n' + ARM, "none.toml: cannot be read"),
    "folder as recipe": ('name = "x"\nrecipe = "."\n' + ARM, "Is a directory"),
    "no arms": (HEAD, "arms: this field is required"),
    "zero arms": (HEAD + "arms = []\n", "arms = ()"),
    "twin arms": (HEAD + ARM + ARM, "a is given twice"),
    "slash": (HEAD + '[[arms]]\nname = "a/b"\n', "name = 'a/b'"),
    "bad override": (HEAD + ARM + 'set = ["x"]\n', "arm 'a': --set x: must look like a.b=value"),
    "unknown key": (HEAD + ARM + 'set = ["train.stepps=1"]\n', "did you mean 'steps'?"),
    "bad shape": (HEAD + ARM + 'set = ["model.mixers.M.d_state=0"]\n', "mixers.M.d_state = 0"),
    "no seeds": (HEAD + "seeds = []\n" + ARM, "seeds = ()"),
    "twin seeds": (HEAD + "seeds = [1, 1]\n" + ARM, "1 is given twice"),
    "negative seed": (HEAD + "seeds = [-1]\n" + ARM, "-1"),
    "unknown field": (
        HEAD + "sedes = [1]\n" + ARM,
        "'sedes' (did you mean 'seeds'?)",
    ),
}


@pytest.mark.parametrize("case", STUDIES)
def test_a_study_that_cannot_be_starts_nothing(refused, recipe, case):
    text, says = STUDIES[case]
    (recipe.parent / "s.toml").write_text(text)
    refused("study", recipe.parent / "s.toml", "--out", recipe.parent / "out", says=says)
    assert not (recipe.parent / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", "mine", "something else than a study"),
        ("study.json", "{}", "add --resume to continue it"),
    ],
)
def test_a_folder_of_something_else_is_kept(refused, recipe, name, content, says):
    (recipe.parent / "s.toml").write_text(HEAD + ARM)
    out = recipe.parent / "out"
    out.mkdir()
    (out / name).write_text(content)
    refused("study", recipe.parent / "s.toml", "--out", out, says=says)
    refused("study", recipe.parent / "s.toml", "--out", out / name, says="is a file")
    assert contents(out) == {name: content.encode()}


def test_a_study_file_that_is_not_there(refused, tmp_path):
    refused("study", tmp_path / "none.toml", "--out", tmp_path / "x", says="none.toml: cannot be")
    refused("study", tmp_path, "--out", tmp_path / "x", says="Is a directory")
