"""lm-evaluation-harness: our models in its hands, and its tasks in ours; never imported unasked."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from types import ModuleType

from braidlm.errors import InputError


def harness() -> ModuleType:
    """Return the package `lm_eval`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import lm_eval
    except ImportError as error:
        raise InputError(
            f"tasks of lm-evaluation-harness need the package 'lm_eval' ({error}): "
            "pip install 'braidlm[eval]'"
        ) from None
    return lm_eval


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the harness's progress bars and notices from a person's screen."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
