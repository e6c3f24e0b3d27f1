"""Declarations of everything around a model but its tasks: data and training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from braidlm.arch.biographies import BiographiesSource
from braidlm.arch.config import Config
from braidlm.arch.pairs import PairsSource
from braidlm.arch.paraphrase import ParaphraseSource
from braidlm.arch.phonebook import PhonebookSource
from braidlm.arch.replay import REPLAY, Replay
from braidlm.arch.sources import PathText, TextSource
from braidlm.arch.symbols import CopyingSource, MADSource, MQARSource

FileSource = TextSource | PairsSource | ParaphraseSource
"""Sources whose text lies in files and is tokenised once."""
AnySource = Annotated[
    FileSource | PhonebookSource | BiographiesSource | MQARSource | MADSource | CopyingSource,
    Field(discriminator="kind"),
]


def _longest_item(source: AnySource) -> int:
    """Return the tokens of an item that is never cut; 0 for text, which may be."""
    match source:
        case MQARSource() | MADSource() | CopyingSource() | ParaphraseSource():
            return source.length
        case PhonebookSource():
            return max(source.lengths)
        case _:
            return 0


class DataConfig(Config):
    """What a model is trained on."""

    tokenizer: PathText = "bytes"
    """"bytes" (built in), the path of a `tokenizers` JSON file or of a GGUF file, or "hf:"
    and a folder or name of the Hugging Face Hub; in an imported run "run:" and a folder of it."""
    seq_len: int = Field(default=256, gt=1, le=2**24)
    """Tokens of one training row."""
    sources: tuple[AnySource, ...] = Field(min_length=1)
    """The mixture."""
    replay: Replay | None = None
    """Rows of what the recipe's init was trained on, among those of the mixture. Default: none."""
    held_out: float = Field(default=0.02, ge=0, lt=1)
    """Share of each text source's documents that are kept for evaluation, chosen by their hash."""
    cache_dir: PathText = "data"
    """Folder of tokenised shards."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [s.name for s in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sources: the name '{name}' is used twice; names must differ")
        if self.replay is not None and REPLAY in names:
            raise ValueError(f"sources: the name '{REPLAY}' is that of what [data.replay] replays")
        for source in self.sources:
            if (longest := _longest_item(source)) > self.seq_len:
                raise ValueError(
                    f"source '{source.name}': length = {longest} is longer than "
                    f"seq_len = {self.seq_len}"
                )
        return self


class MuonConfig(Config):
    """Muon's own settings; everything else it shares with AdamW.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025
    (arXiv 2502.16982). The names are those of `torch.optim.Muon`.
    """

    lr: float = Field(default=0.0, ge=0)
    """Peak learning rate of the matrices; 0 is `train.lr`, what match_rms_adamw is made for."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the momentum (Nesterov's). Source: Jordan et al. 2024."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of the matrices, times their rate. Source: Liu et al. 2025."""
    adjust_lr_fn: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """Rate of an A x B matrix: match_rms_adamw 0.2 sqrt(max(A, B)), original sqrt(max(1, A/B))."""


class TrainConfig(Config):
    """How a model is trained."""

    steps: int = Field(default=1000, gt=0)
    """Optimizer steps."""
    batch_size: int = Field(default=16, gt=0, le=2**20)
    """Rows per optimizer step."""
    micro_batch_size: int = Field(default=0, ge=0)
    """Rows per forward pass; 0 is the whole batch. It must divide batch_size."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: hidden matrices under Muon, each part of a fused one by itself; AdamW for the rest."""
    muon: MuonConfig = MuonConfig()
    """Settings of Muon; read only if it is the optimizer."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "trapezoid"] = "cosine"
    """cosine: to min_lr_ratio; trapezoid (WSD): stable, then down over decay_fraction."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up; a run shorter than this never leaves it."""
    warmup_from: Literal["zero", "init"] = "zero"
    """Where the warm-up begins; init: at the learning rate that the recipe's init ended with."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Last learning rate of the main phase, as a share of `lr`."""
    decay_fraction: float = Field(default=0.2, ge=0, le=1)
    """trapezoid: share of the steps that cool down."""
    decay_shape: Literal["linear", "sqrt"] = "linear"
    """trapezoid: linear, or 1 - sqrt(progress). Source: Hägele et al. 2024 (arXiv 2405.18392)."""
    anneal_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps that make a last linear phase after the schedule."""
    anneal_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end of that phase, as a share of `lr`."""
    continue_optimizer: bool = False
    """Whether the optimizer begins with its state at the end of the recipe's init, or anew."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices; norms, biases, A_log, D and dt_bias have none."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's first decay."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW's second decay."""
    adam_eps: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 is no limit."""
    carry_states: bool = False
    """Whether each row goes on with the states of the same row of the update before (truncated
    backpropagation through time over long documents), or begins every document anew."""
    carry_kv_tokens: Annotated[int, Field(ge=0)] | Literal["all"] | None = None
    """Tokens of a document that attention without a window keeps for its next segment."""
    compile: bool = False
    """Whether mixers that compile as one graph (Mamba-2, MLP) do; the rest stays eager."""
    activation_budget: float = Field(default=1.0, ge=0, le=1)
    """Share of what compiled graphs would keep for backward that they may keep; the compiler
    chooses what is computed again instead. Needs `compile`."""
    cuda_graph: bool = False
    """Whether a micro-batch's passes are recorded as a CUDA graph, and launched as a whole; for
    models whose updates wait for the host. Needs a GPU."""
    overlap_branches: bool = False
    """Whether the branches of a parallel sublayer run side by side on streams of a GPU; it pays
    together with `cuda_graph`."""
    activation_checkpointing: int = Field(default=0, ge=0)
    """n: every n-th block keeps its input alone and is computed again in backward; 0: none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the hardware multiplies it, else fp32; what ran is recorded."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    deterministic: bool = False
    """Whether torch must use deterministic algorithms."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads; 0 is torch's own choice."""
    log_every: int = Field(default=10, gt=0)
    """Steps between rows of metrics.jsonl."""
    log_to: tuple[Literal["tensorboard", "trackio"], ...] = ()
    """Programs that get the rows of metrics.jsonl too; each is an extra of its name."""
    telemetry_every: int = Field(default=0, ge=0)
    """Steps between looks at layers, gradients and changes by group, the first too; 0: none."""
    checkpoint_every: int = Field(default=500, gt=0)
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """Newest checkpoints that are kept."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size = {self.micro_batch_size}: must divide "
                f"batch_size = {self.batch_size}"
            )
        if self.activation_budget < 1 and not self.compile:
            raise ValueError(
                f"activation_budget = {self.activation_budget}: needs compile = true; "
                "activation_checkpointing does without"
            )
        if self.cuda_graph and (self.carry_states or self.activation_checkpointing):
            field = "carry_states" if self.carry_states else "activation_checkpointing"
            raise ValueError(f"cuda_graph = true: cannot be recorded together with {field}")
        if self.warmup_from == "init" and not self.warmup_steps:
            raise ValueError("warmup_from = 'init': needs warmup_steps of at least 1, not 0")
        return self
