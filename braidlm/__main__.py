"""`python -m braidlm` is `braid`."""

import sys

from braidlm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
