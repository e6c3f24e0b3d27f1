"""`braid generate RUN --prompt TEXT`: continue a text with a run's newest checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("generate", help="continue prompts with a trained model")
    parser.add_argument("path", metavar="RUN", help="a run directory or a checkpoint folder")
    parser.add_argument(
        "--prompt",
        dest="prompts",
        metavar="TEXT",
        action="append",
        help="what to continue; give it several times for a batch (default: an empty prompt)",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="each prompt is a user's message, put into the tokenizer's chat template",
    )
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N")
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="X", help="0 is greedy (default: 1)"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="X", help="nucleus's mass (default: 1, all)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="N", help="tokens kept (default: 0, all)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--dtype",
        default="fp32",
        metavar="NAME",
        help="of the weights: fp32 or bf16 (half of the bytes)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the step: a minute or two at first, then two to four times as fast on a CPU",
    )
    parser.add_argument(
        "--no-graph",
        action="store_true",
        help="on a GPU: launch every operation of a step by itself, do not record and replay it",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the completions: one prompt as it comes, several when all are done."""
    from braidlm.checkpoint import load_model
    from braidlm.data.tokenizer import load_tokenizer
    from braidlm.device import choose_device
    from braidlm.generate import Sampling, step_for
    from braidlm.generate.mode import weights_dtype

    sampling = Sampling(args.temperature, args.top_p, args.top_k, args.seed)
    dtype = weights_dtype(args.dtype)
    model, recipe = load_model(args.path, choose_device(args.device), dtype)
    tokenizer = load_tokenizer(recipe.data.tokenizer)
    prompts = args.prompts or [""]
    ids = _prompt_ids(args.chat, recipe.data.tokenizer, tokenizer, prompts)
    settings = {
        "max_new_tokens": args.max_new_tokens,
        "sampling": sampling,
        "stop_ids": (tokenizer.eos_id,),
        "step": step_for(model, is_compiled=args.compile, is_recorded=not args.no_graph),
    }
    if len(prompts) == 1 and not args.json:
        _print_stream(model, tokenizer, "" if args.chat else prompts[0], ids, settings)
        return 0
    rows: list[list[int]] = [[] for _ in prompts]
    from braidlm.generate import stream_tokens

    for row, token in stream_tokens(model, ids, **settings):
        rows[row].append(token)
    texts = [tokenizer.decode(row) for row in rows]
    if args.json:
        print(json.dumps(_as_data(args, prompts, ids, rows, texts), indent=2))
    else:
        for prompt, text in zip(prompts, texts, strict=True):
            print(f"--- {prompt}\n{'' if args.chat else prompt}{text}")
    return 0


def _prompt_ids(is_chat: bool, name: str, tokenizer: Any, prompts: list[str]) -> list[list[int]]:
    if is_chat:
        from braidlm.data.chat import chat_prompts

        return chat_prompts(name, prompts)
    # Every training document opens with bos, so that prompts do too.
    return [[tokenizer.bos_id, *tokenizer.encode(text).tolist()] for text in prompts]


def _print_stream(
    model: Any, tokenizer: Any, prompt: str, ids: list[list[int]], settings: dict[str, Any]
) -> None:
    from braidlm.generate import TextStream, stream_tokens

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    text = TextStream(tokenizer)
    for _, token in stream_tokens(model, ids, **settings):
        if prompt:  # only what can be continued is printed
            write(prompt)
            prompt = ""
        write(text.push(token))
    write(prompt + text.finish() + "\n")


def _as_data(
    args: argparse.Namespace,
    prompts: list[str],
    ids: list[list[int]],
    rows: list[list[int]],
    texts: list[str],
) -> dict[str, Any]:
    names = ("path", "max_new_tokens", "temperature", "top_p", "top_k", "seed", "dtype", "chat")
    completions = [
        {"prompt": prompt, "prompt_tokens": start, "completion": text, "tokens": row}
        for prompt, start, text, row in zip(prompts, ids, texts, rows, strict=True)
    ]
    return {name: getattr(args, name) for name in names} | {"completions": completions}
