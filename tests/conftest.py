"""Settings that every test shares."""

import gc
import os
import signal

import hypothesis
import pytest
import torch

# Programs that tests start run beside other tests, as the tests themselves do: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Triton asks this once, when it is imported: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A background job of a shell, or of nohup, starts with signals ignored, and would hand that on to
# every program that a test interrupts.
for _name, _usual in (
    ("SIGINT", signal.default_int_handler),
    ("SIGHUP", signal.SIG_DFL),
    ("SIGTERM", signal.SIG_DFL),
):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _usual)

# Times on a shared machine say nothing, and a run of CI should be the same twice.
hypothesis.settings.register_profile("house", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("house")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """A million objects are made and all stay: looking for garbage is a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed():
    """Tests are compared bit by bit and run side by side: one thread each, one seed each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
