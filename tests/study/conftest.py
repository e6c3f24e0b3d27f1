"""Runs of these tests are fake unless a test says otherwise."""

import pytest

from braidlm.study import runner
from tests.study.making import FAKE


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PROGRAM", FAKE)
