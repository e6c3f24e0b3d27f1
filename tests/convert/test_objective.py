"""What stages lessen, against its formula, and which weights feel it."""

from typing import Any

import pytest
import torch

from braidlm.convert.fitting import fit_outputs, train_only
from braidlm.convert.objective import Student, voices
from braidlm.segments import Segments
from tests.convert.tiny import build, converted, spec, tokens


def student_of(pattern: str, kind: Any, **fields: Any):
    teacher = build(spec()).requires_grad_(False)
    copied, found = converted(teacher, pattern, **fields)
    student = Student(found.spec, teacher, found.changes, kind)
    student.load_state_dict(copied.state_dict())
    return student, teacher, found.changes


def asked() -> tuple[torch.Tensor, torch.Tensor]:
    x = tokens()
    targets = x.roll(-1, 1)
    targets[:, -1] = targets[0, 3] = -100
    return x, targets


@pytest.mark.parametrize("pattern", ["M-G-", "{M*}-G-", "{*MG}-*-"])
def test_mixers_are_compared_on_what_the_attention_reads(pattern):
    student, teacher, changes = student_of(pattern, "mixers")
    x, targets = asked()
    seen: dict[int, Any] = {}
    for change in changes:
        mix: Any = teacher.blocks[change.index].mix
        mix.register_forward_hook(lambda _, a, r, i=change.index: seen.update({i: (a[0], r[0])}))
    teacher(x)
    want = torch.zeros(())
    counts = targets != -100
    for change in changes:
        read, y = seen[change.index]
        for voice in voices(student, change, read, None):
            share = (voice - y)[counts].square().sum() / y[counts].square().sum()
            want = want + share / len(change.new) / len(changes)
    gradients = torch.autograd.grad(want, list(student.parameters()), allow_unused=True)
    loss = student.loss(x, targets)
    loss.backward()
    torch.testing.assert_close(loss, want)
    for p, g in zip(student.parameters(), gradients, strict=True):
        assert (p.grad is None) == (g is None)
        if g is not None:
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-7)


def test_the_sum_is_the_mean_times_its_tokens():
    student, _, _ = student_of("M-*-", "mixers")
    x, targets = asked()
    n = int((targets != -100).sum())
    total = student.loss(x, targets, reduction="sum")
    torch.testing.assert_close(total, n * student.loss(x, targets))
    with pytest.raises(ValueError, match="mean or sum"):
        student.loss(x, targets, reduction="none")


@pytest.mark.parametrize("kind", ["hidden", "logits"])
def test_distances_at_the_end(kind):
    student, teacher, _ = student_of("M-*-", kind)
    x, targets = asked()
    counts = targets != -100
    own, theirs = student(x).hidden, teacher(x).hidden
    if kind == "hidden":
        want = (own - theirs)[counts].square().sum() / theirs[counts].square().sum()
    else:
        p = teacher.head(theirs)[counts].log_softmax(-1)
        want = (p.exp() * (p - student.head(own)[counts].log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(student.loss(x, targets), want)


@pytest.mark.parametrize("kind", ["mixers", "hidden", "logits"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(kind):
    student, _, _ = student_of("(W-)2", kind, mixers={"W": {"window": 64}})
    assert student.loss(*asked()).item() < 1e-6


def test_packed_documents_are_compared_each_for_itself():
    student, _, _ = student_of("M-G-", "mixers")
    x, targets = asked()
    segments = Segments.from_lengths([[5, 7], [12]], 12)
    changed = x.clone()
    changed[0, :5] = 7
    only_second = targets.clone()
    only_second[0, :5] = -100
    losses = [student.loss(rows, only_second, segments) for rows in (x, changed)]
    torch.testing.assert_close(*losses)


def names_with_gradients(student: Any) -> set[str]:
    student.loss(*asked()).backward()
    return {name for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["mixers", "hidden", "logits", "text"])
def test_what_is_new_is_trained_and_nothing_else(kind):
    student, teacher, changes = student_of("M-{*G}-", kind)
    train_only(student, changes, "new")
    touched = names_with_gradients(student)
    allowed = ("blocks.0.mix.", "blocks.2.mix.branches.1.", "blocks.2.mix.combine.out_projs.1.")
    assert touched
    assert all(n.startswith((*allowed, "blocks.2.mix.scales.1")) for n in touched)
    assert any(n.startswith(allowed[1]) for n in touched)
    assert all(p.grad is None for p in teacher.parameters())


def test_what_else_a_stage_can_train():
    student, _, changes = student_of("M-*-", "text")
    train_only(student, changes, "mixers")
    touched = names_with_gradients(student)
    assert {n.split(".")[1] for n in touched} == {"0", "2"}
    assert "blocks.0.norm.weight" in touched
    train_only(student, changes, "all")
    assert all(p.requires_grad for p in student.parameters())


def test_a_fitted_output_has_the_least_error():
    teacher = build(spec())
    student, found = converted(teacher, "M-{*G}-")
    x = tokens(4, 32)
    rows = fit_outputs(student, teacher, found.changes, x, None)
    again = fit_outputs(student, teacher, found.changes, x, None)
    assert [row["layer"] for row in rows] == [0, 2]
    assert [row["branch"] for row in rows] == [None, 1]
    for row, other in zip(rows, again, strict=True):
        assert row["error"] <= 1.01
        assert other["scale"] == pytest.approx(1.0, abs=1e-4)
        assert other["error"] == pytest.approx(row["error"], abs=1e-4)
