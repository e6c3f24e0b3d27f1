"""The law of the house: layers, sizes, words, pages, and what importing costs."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest
import torch

from braidlm.arch.cost import cost
from braidlm.cli.main import build_parser
from braidlm.model import HybridLM
from braidlm.study.bases import settle
from braidlm.study.budget import check_matched, quantities
from braidlm.study.config import StudyConfig
from tests.house import ROOT, anchors, blocks, commands, pages, tracked

SOURCES = [p for p in tracked() if p.suffix == ".py" and p.is_relative_to(ROOT / "braidlm")]
OPTIONAL = ("triton", "transformers", "datasets", "lm_eval", "matplotlib", "fastapi")
OPTIONAL += ("tensorboard", "trackio", "spacy", "lemminflect", "wordfreq", "sentence_transformers")
TORCH_FREE = ("arch", "runs", "files", "provenance", "report", "study", "cli")
PAGES = [p.relative_to(ROOT).as_posix() for p in pages()]


def python(code: str, *flags: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    run = [sys.executable, *flags, "-c", code]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class TestImports:
    def test_they_go_only_down(self):
        python("from importlinter.cli import lint_imports as x; raise SystemExit(x(no_cache=True))")

    def test_the_layers_name_every_room(self):
        contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
        named = set(re.findall(r"braidlm\.(\w+)", str(contract["contracts"][0]["layers"])))
        rooms = {p.relative_to(ROOT / "braidlm").parts[0].removesuffix(".py") for p in SOURCES}
        # `report` has a contract of its own; the others are above or below everything.
        assert rooms - named <= {"report", "__init__", "__main__"}
        assert named <= rooms

    def test_the_package_alone_imports_nothing(self):
        heavy = ("torch", "pydantic", "numpy", "tokenizers")
        code = f"import sys, braidlm; print([m for m in {heavy} if m in sys.modules])"
        assert python(code) == "[]\n"

    @pytest.mark.parametrize(("rooms", "refused"), [(TORCH_FREE, ("torch", "numpy")), ((), ())])
    def test_a_room_imports_no_package_that_it_can_do_without(self, rooms, refused):
        """One interpreter imports module after module and names the first that goes too far."""
        names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES]
        names = [n.removesuffix(".__init__") for n in names if not n.endswith("__main__")]
        names = [n for n in names if not n.startswith("braidlm.hf")]  # asked for by that import
        names = [n for n in names if ".triton" not in n]  # taken by calls on a GPU
        if rooms:
            names = [n for n in names if n.split(".")[1:2] and n.split(".")[1] in rooms]
        assert len(names) > 20
        code = (
            "import sys, importlib\n"
            f"{'' if rooms else 'import torch.utils.flop_counter'}\n"  # takes triton if it can
            f"refused = {(*OPTIONAL, *refused)}\n"
            "before = set(sys.modules)\n"
            f"for name in {names}:\n"
            "    importlib.import_module(name)\n"
            "    found = [m for m in refused if m in set(sys.modules) - before]\n"
            "    assert not found, (name, found)\n"
        )
        python(code)


class TestPublicNames:
    def test_each_is_what_it_says_and_is_listed(self):
        code = """
import braidlm
assert set(braidlm.__all__) <= set(dir(braidlm))
from braidlm import *
from braidlm.arch import Spec as a, Recipe as b
from braidlm.checkpoint import load_model as c
from braidlm.model import HybridLM as d
from braidlm.segments import Segments as e
from braidlm.tasks import evaluate as f
assert [Spec, Recipe, load_model, HybridLM, Segments, evaluate] == [a, b, c, d, e, f]
print(braidlm.__version__)
"""
        assert python(code, "-W", "error").strip() == project_version()

    def test_a_name_that_is_not_there_is_an_attribute_error(self):
        import braidlm

        with pytest.raises(AttributeError, match="has no attribute 'brian'"):
            braidlm.brian  # pyright: ignore[reportAttributeAccessIssue]


class TestSizes:
    def test_files(self):
        long = {p.name: n for p in SOURCES if (n := len(p.read_text().splitlines())) > 400}
        assert long == {}

    def test_functions(self):
        """At most 60 lines beside the docstring; Triton kernels excepted."""
        long = {}
        for path in SOURCES:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and not is_kernel(node):
                    n = (node.end_lineno or 0) - node.lineno + 1
                    n -= len((ast.get_docstring(node, clean=False) or "").splitlines())
                    if n > 60:
                        long[f"{path.name}:{node.name}"] = n
        assert long == {}

    def test_names(self):
        bad = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
        assert [p for p in tracked() if p.name in bad] == []


def is_kernel(node: ast.FunctionDef) -> bool:
    return any("triton" in ast.unparse(d) for d in node.decorator_list)


class TestWords:
    def test_no_unfinished_work_and_no_place_of_ours(self):
        words = ["TO" + "DO", "FIX" + "ME", "x" + "fail", "NotImplemented" + "Error"]
        places = "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers"])
        pattern = re.compile(rf"\b({'|'.join(words)})\b|(?<![\w.])/({places})/")
        found = []
        for path in tracked():
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            found += [(path.name, m[0]) for m in pattern.finditer(text)]
        assert found == []

    @pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
    def test_ruff_has_nothing_to_say(self, command):
        run = [sys.executable, "-m", "ruff", *command, "--no-cache", "--quiet", str(ROOT)]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_ruff_asks_for_docstrings(self):
        rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
        assert "D1" in rules["select"]
        assert set(rules["ignore"]) & {"D100", "D101", "D102", "D103", "D104", "D106"} == set()


STUDIES = sorted((ROOT / "recipes").rglob("*.study.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_arm_of_a_shipped_study_builds(path):
    """Recipes by themselves are held in `tests/arch/test_shipped_recipes.py`."""
    study = StudyConfig.load(path)
    given = {"init": None, "recipe": study.recipe}  # a base from elsewhere: the recipe's own model
    bases = [b.model_copy(update=given if b.init else {}) for b in study.bases]
    study, _ = settle(study.model_copy(update={"bases": tuple(bases)}), path.parent)
    recipes = {a.name: study.recipe_of(a, study.seeds[0], path.parent) for a in study.arms}
    budgets = {name: quantities(recipe, study.context) for name, recipe in recipes.items()}
    check_matched(budgets, study.require_matched)
    for recipe in recipes.values():
        with torch.device("meta"):
            model = HybridLM(recipe.spec)
        assert sum(p.numel() for p in model.parameters()) == cost(recipe.spec, 1).n_params


class TestPages:
    @pytest.mark.parametrize("name", PAGES)
    def test_every_link_leads_somewhere(self, name):
        page = ROOT / name
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
            if re.match(r"https?://|mailto:", target):
                continue
            file, _, anchor = target.partition("#")
            goal = (page.parent / file).resolve() if file else page
            assert goal.exists(), target
            assert not anchor or anchor in anchors(goal), target

    @pytest.mark.parametrize("name", PAGES)
    def test_every_command_that_is_shown_parses(self, name):
        for words in commands(ROOT / name):
            build_parser().parse_args(words)

    @pytest.mark.parametrize(
        "name", ["README.md", "docs/states.md", "docs/numerics.md", "docs/packing.md"]
    )
    def test_the_code_that_is_shown_runs(self, name, tmp_path):
        code = "\n".join(blocks(ROOT / name, "python"))
        (tmp_path / "recipes").symlink_to(ROOT / "recipes")
        run = [sys.executable, "-W", "error", "-c", f"import torch\n{code}"]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "False" not in done.stdout

    def test_every_page_is_in_the_index_once(self):
        index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
        listed = re.findall(r"^\| \[[^\]]+\]\((\w+\.md)\)", index, re.M)
        there = {p.name for p in (ROOT / "docs").glob("*.md")} - {"README.md"}
        assert sorted(listed) == sorted(there)

    def test_every_page_that_the_code_names_is_there(self):
        for path in tracked():
            if path.suffix in (".py", ".md", ".toml"):
                for name in re.findall(r"\bdocs/\w+\.md\b", path.read_text(encoding="utf-8")):
                    assert (ROOT / name).is_file(), f"{path.name}: {name}"

    def test_the_changelog_begins_with_this_version(self):
        text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", text, re.M)
        assert versions[:1] == [project_version()]


def project_version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_commands_are_found_where_pages_show_them():
    """The reader of pages has teeth: it sees commands, and a wrong one does not parse."""
    assert ["describe", "(M-M-M*-)4", "--d-model", "768"] in commands(ROOT / "docs/cost.md")
    shown = commands(ROOT / "docs/training.md")[0]
    assert shown[:3] == ["train", "RECIPE.toml", "--out"]
    assert "--resume" in shown
    with pytest.raises((SystemExit, ValueError)):
        build_parser().parse_args(["train", "--no-such-flag"])
    assert "states" in anchors(ROOT / "docs/packing.md")
    assert json.dumps(blocks(ROOT / "docs/packing.md", "python")).count("Segments") > 3
