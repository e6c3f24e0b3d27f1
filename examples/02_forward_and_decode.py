"""A prefill and then single steps from explicit states give what one forward pass gives.

The state is a plain tuple: it is returned, looked at, and passed in again. Nothing is remembered
inside the model. Prints what each sublayer keeps and how far the two ways lie apart.
"""

import torch

from braidlm import HybridLM, Spec
from braidlm.state import n_bytes


def main() -> None:
    """Compare decoding with one forward pass."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = HybridLM(Spec.parse("M-{M*}-*-", d_model=64, vocab_size=100)).eval()
    tokens = torch.randint(100, (2, 40))

    with torch.no_grad():
        full = model.head(model(tokens).hidden)

        out = model(tokens[:, :30])  # prefill
        state, logits = out.state, [model.head(out.hidden)]
        for t in range(30, 40):  # decode
            out = model(tokens[:, t : t + 1], state=state)
            state = out.state
            logits.append(model.head(out.hidden))
    stepped = torch.cat(logits, dim=1)

    for sublayer, memory in zip(model.spec.sublayers, state, strict=True):
        print(f"sublayer {sublayer.index} {sublayer.symbol:5} keeps {n_bytes(memory):7,} bytes")
    agree = bool((full.argmax(-1) == stepped.argmax(-1)).all())
    print(f"largest difference of logits: {float((full - stepped).abs().max()):.1e}")
    print(f"same most probable token everywhere: {agree}")


if __name__ == "__main__":
    main()
