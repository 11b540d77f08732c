"""Makes `gpt2_from_scratch/tiny/`: the small trained GPT-2 that every command uses when it is given no checkpoint.

Nothing comes from elsewhere. The text is `tiny_stories`, the tokenizer is trained on that text, and the
model is the package's own `GPTModel` in training mode. On two CPU cores it takes about 20 minutes:

    python scripts/train_tiny.py --out /tmp/tiny

The same seed, torch version and processor give the same bytes; elsewhere rounding differs, and with it the weights, but
not the loss (to about 0.01). Progress and the loss on held-out stories go to stderr, a sample to stdout.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tiny_stories import stories
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F

from gpt2_from_scratch import FUSED, GPTConfig, GPTModel, load_tokenizer
from gpt2_from_scratch.generation import generate
from gpt2_from_scratch.tokenizer import BYTE_SYMBOLS
from gpt2_from_scratch.tokenizer import Tokenizer as TextTokenizer

# Small enough to ship (2.6 MB) and still a fair test: with ten layers or fewer, layers sorted by name as text (h.10
# before h.2) would pass; the four heads of 16 are not GPT-2's 64, so a hard-coded head width fails.
CONFIG = GPTConfig(
    vocab_size=512,  # 256 bytes, 255 merges and, last as in GPT-2, the end of text
    n_positions=256,  # a story is 177 tokens on average and almost never more than 256
    n_embd=64,
    n_layer=12,
    n_head=4,
    initializer_range=0.06,  # 0.02 is for wide models: after 300 steps at 3e-3 it was at 2.68 nats, this at 2.45
    resid_pdrop=0.05,  # little: no story comes twice, so there is nothing to learn by heart
    embd_pdrop=0.05,
    attn_pdrop=0.0,  # the fused attention of the CPU has no dropout; with it a step took 3.5 times as long
    bos_token_id=511,
    eos_token_id=511,
)
END_OF_TEXT = "<|endoftext|>"

STEPS = 1600  # 6.6 million tokens
BATCH = 16  # windows of 256 tokens: smaller ones use the processor less well (-8 % at 8, -15 % at 4)
WARMUP = 100  # steps; Adam's variance estimate (memory 1 / (1 - 0.95) = 20 steps) is worth nothing before
LEARNING_RATE = 6e-3  # at the peak; in short runs better than 3e-3
WEIGHT_DECAY = 0.1  # GPT-3's, https://arxiv.org/abs/2005.14165 appendix B, as are betas, clipping and the cosine
BETAS = (0.9, 0.95)
CLIP_NORM = 1.0

BPE_STORIES = 20_000  # 8 MB of text; the rarest of its words still comes dozens of times
HELD_OUT_WINDOWS = 200  # 51,200 tokens


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = Path(__file__).resolve().parents[1] / "gpt2_from_scratch" / "tiny"
    parser.add_argument("--out", type=Path, default=shipped, help="folder to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of stories, initialisation, dropout (default: 0)")
    args = parser.parse_args()

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)  # how a sum is split over threads changes its last bit
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer_seed, training_seed, held_out_seed = range(3 * args.seed, 3 * args.seed + 3)

    write_tokenizer(args.out, itertools.islice(stories(tokenizer_seed), BPE_STORIES))
    encoding = load_tokenizer(args.out, vocab_size=CONFIG.vocab_size)
    model = GPTModel(CONFIG, compute=FUSED)
    train(model, batches(encoding, training_seed, BATCH), args.steps)
    model.eval().save_pretrained(args.out)

    held_out = next(batches(encoding, held_out_seed, HELD_OUT_WINDOWS))
    with torch.inference_mode():
        log(f"held-out loss: {next_token_loss(model, held_out):.4f} nats per token")
    prompt = torch.tensor([[CONFIG.vocab_size - 1, *encoding.encode_ordinary("Once upon a time")]])
    print(encoding.decode(generate(model, prompt, max_new_tokens=200)[0, 1:].tolist()))


def write_tokenizer(folder: Path, texts: Iterator[str]) -> None:
    """Trains byte-level BPE on the texts and writes `vocab.json` and `merges.txt` in GPT-2's form.

    Ids are GPT-2's too: the bytes in the order of their symbols, the tokens of the merges, the end of text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size - 1, initial_alphabet=list(BYTE_SYMBOLS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens = [*BYTE_SYMBOLS, *(left + right for left, right in merges), END_OF_TEXT]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    assert len(vocab) == len(tokens) == CONFIG.vocab_size, "two merges make the same token: use another seed"
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("".join(f"{line}\n" for line in ["#version: 0.2", *map(" ".join, merges)]))


def batches(encoding: TextTokenizer, seed: int, size: int) -> Iterator[Tensor]:
    """Endlessly many ``[size, n_positions + 1]``: consecutive windows of one stream of stories.

    Each story ends with the end of text. Where a window starts has nothing to do with where a story starts, so every
    position meets every part of a story, and each token is seen once.
    """
    shape = (size, CONFIG.n_positions + 1)
    end = CONFIG.vocab_size - 1
    stream = itertools.chain.from_iterable((*encoding.encode_ordinary(story), end) for story in stories(seed))
    while True:
        yield torch.tensor(list(itertools.islice(stream, math.prod(shape)))).view(shape)


def train(model: GPTModel, windows: Iterator[Tensor], steps: int) -> None:
    """Trains in place: AdamW, linear warm-up, cosine to zero."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    # Decay would pull gains and biases to zero, where swapping or dropping them goes unnoticed; it also keeps the
    # embeddings small, and with them the variance to which LayerNorm adds its epsilon.
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, (1 + math.cos(math.pi * step / steps)) / 2)
    )
    model.train()
    start = time.monotonic()
    for step, batch in enumerate(itertools.islice(windows, steps), start=1):
        loss = next_token_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps:
            tokens = step * BATCH * CONFIG.n_positions
            log(f"step {step}/{steps}  loss {loss:.4f}  {tokens:,} tokens  {time.monotonic() - start:.0f} s")


def next_token_loss(model: GPTModel, windows: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each window's next tokens."""
    return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def log(line: str) -> None:
    """Progress is not output."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
