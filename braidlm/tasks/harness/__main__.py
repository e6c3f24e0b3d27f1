"""`python -m braidlm.tasks.harness`: the harness's own command line with our models in its list."""

import sys

from braidlm.errors import InputError
from braidlm.tasks.harness.model import register


def main() -> int:
    """Register the model and hand over; what is wrong with a run is one sentence."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except InputError as error:
        print(f"braidlm: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
