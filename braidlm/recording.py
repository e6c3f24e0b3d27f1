"""What a GPU is asked for, recorded as a CUDA graph: the host launches it as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from braidlm.errors import InputError

Body = Callable[[], None]
"""Reads and writes tensors that stay where they are."""
Record = Callable[[Body], Body]
"""Returns what does the same again; may run the body before."""


def as_cuda_graph(body: Body, refusal: str) -> Body:
    """Run `body` twice, so that all kernels exist and none waits for the host; record it.

    Args:
        body: what is recorded, on the current GPU.
        refusal: the sentence for a body that asks the GPU for a number, which no graph can.

    Raises:
        InputError: such a body.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    before = torch.cuda.get_sync_debug_mode()
    try:
        with torch.cuda.stream(side), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself a prototype
            body()
            torch.cuda.set_sync_debug_mode("error")
            body()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise InputError(refusal) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay
