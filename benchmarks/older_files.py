"""Files that another version of transformers saved: read, and held against the installed one.

    PYTHONPATH=old python benchmarks/older_files.py save DIR
    python benchmarks/older_files.py compare DIR

The first saves a tiny model of every family with the transformers of the folder `old`
(``pip install --target old transformers==5.12.1``). The second reads each with `interop.load` and
with the installed transformers, and prints the largest difference of logits over their spread,
and tensors that the installed transformers did not find.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from braidlm import interop
from braidlm.errors import InputError
from braidlm.laws import hf_load
from braidlm.laws.hf_tiny import TINY


def save(folder: Path) -> None:
    """Save a tiny model of every family that the transformers at hand has."""
    for family in TINY:
        try:
            subject = hf_load.draw(family, torch.device("cpu"), seed=0, tiny=True)
        except InputError as error:
            print(error)
            continue
        subject.model.save_pretrained(folder / family)


@torch.no_grad()
def compare(folder: Path) -> None:
    """Print a line per model."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokens = torch.randint(0, 37, (2, 29), generator=torch.Generator().manual_seed(0))
    for path in sorted(folder.iterdir()):
        ours = interop.load(path).model
        pair: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path, output_loading_info=True
        )
        theirs, loading = pair
        expected = theirs.eval()(tokens).logits
        found = float((ours.head(ours(tokens).hidden) - expected).abs().max() / expected.std())
        print(f"{path.name:18} {found:.1e}  missing: {sorted(loading['missing_keys'])}")


def main() -> None:
    """Save or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("save", "compare"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    (save if options.what == "save" else compare)(options.folder)


if __name__ == "__main__":
    main()
