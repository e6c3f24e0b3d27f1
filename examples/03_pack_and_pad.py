"""Documents packed into rows, or padded on the left, get what each gets alone.

`Segments` says where documents lie; masks, rotary positions and every reset follow from it.
Prints the largest difference of hidden states, of final states and of a gradient, and for
contrast what happens when the boundaries are not told.
"""

import torch

from braidlm import HybridLM, Segments, Spec, state


def main() -> None:
    """Compare packed, padded and separate documents."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = HybridLM(Spec.parse("M-{M*}-*-", d_model=64, vocab_size=100))
    lengths = [5, 70, 1, 24]
    documents = [torch.randint(100, (n,)) for n in lengths]
    alone = [model(d[None]) for d in documents]
    expected = torch.cat([out.hidden[0] for out in alone])

    segments = Segments.from_lengths([lengths], total=104)  # one row, 4 tokens of padding
    row = torch.zeros(1, 104, dtype=torch.int64)
    row[segments.is_real] = torch.cat(documents)
    packed = model(row, segments)
    print(f"packed: outputs differ by {far(packed.hidden[segments.is_real], expected):.1e}")

    second = state.select(packed.state, torch.tensor([1]))  # the state of document 1
    pairs = zip(state.tensors(second), state.tensors(alone[1].state), strict=True)
    print(f"packed: states differ by {max(far(a, b) for a, b in pairs):.1e}")

    weight = model.embedding.weight
    (one,) = torch.autograd.grad(packed.hidden[segments.is_real].sin().sum(), weight)
    (other,) = torch.autograd.grad(expected.sin().sum(), weight)
    print(f"packed: gradients differ by {far(one, other) / float(other.abs().max()):.1e}, relative")

    mask = torch.arange(70) >= 70 - torch.tensor(lengths)[:, None]  # left-padded
    batch = torch.zeros(4, 70, dtype=torch.int64)
    batch[mask] = torch.cat(documents)
    padded = model(batch, Segments.from_mask(mask)).hidden[mask]
    print(f"padded: outputs differ by {far(padded, expected):.1e}")

    untold = model(row).hidden[segments.is_real]
    print(f"boundaries not told: outputs differ by {far(untold, expected):.1e}")


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference."""
    return float((a - b).detach().abs().max())


if __name__ == "__main__":
    main()
