"""Token ids in, more token ids out: greedy or drawn, in batches, and as a stream of text.

There is one loop, `_decode`, which yields one new id per row and step. `steps` checks the arguments and returns it,
`generate` collects its steps, `stream` and `stream_text` continue one prompt. A row that has ended is no longer
computed; its place in the result is filled with padding. `Decoding` says how ids are chosen and computed.

Greedy ids, and the distribution that ids are drawn from, are those of transformers' ``generate``. The layers compute
as `FUSED`, the fastest way, whatever the model was loaded with. Its ids differ from transformers' only where two logits
are equal within rounding (in 16 bits that is not rare). ``Decoding(compute=EXACT)`` computes transformers' bits.

Shapes: B rows of the batch, T tokens of the prompts, V vocabulary.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpt2_from_scratch.cache import KVCache
from gpt2_from_scratch.layers import FUSED, Compute
from gpt2_from_scratch.model import GPTModel
from gpt2_from_scratch.precision import dtype_name
from gpt2_from_scratch.tokenizer import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class Decoding:
    """How the next id is chosen, when a text ends, and how the model computes meanwhile. The default is greedy.

    Args:
        temperature: 0 takes the likeliest id. Above 0 ids are drawn, with the logits divided by it: below 1 sharpens
            the distribution, above 1 flattens it.
        top_k: draw from the `top_k` likeliest ids only.
        top_p: then draw from the fewest ids that together have at least this probability.
        repetition_penalty: above 1 makes ids that the text already holds less likely, as in transformers: a positive
            logit is divided by it, a negative one multiplied. None: as `generation_config.json` says, or else 1.
        seed: the same seed, model, prompts and machine draw the same ids. None: different ones each time. PyTorch's
            global generator is neither used nor changed.
        eos_token_id: the id at which a text ends, or several. None: as `generation_config.json` says, or else
            `config.json`; ``()``: none.
        compute: how the layers compute while generating. `EXACT` gives transformers' bits.

    Raises:
        ValueError: a value out of range, or one that has no effect at temperature 0.

    Example:
        >>> Decoding(temperature=0.8, top_k=50, seed=1).top_k
        50
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    compute: Compute = FUSED

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (the likeliest id) or above (draw)")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; at least 1 id must be left to draw from")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be a probability above 0, at most 1")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0 (1 changes nothing)")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; PyTorch takes 64 bits: from -2**63 to 2**64 - 1")
        for name, value in (("top_k", self.top_k), ("top_p", self.top_p)):
            if self.temperature == 0 and value is not None:
                raise ValueError(
                    f"{name} is {value}, but at temperature 0 nothing is drawn: set a temperature above 0, "
                    f"or leave {name} out"
                )


GREEDY = Decoding()


def generate(
    model: GPTModel,
    input_ids: Tensor,
    max_new_tokens: int = 20,
    decoding: Decoding = GREEDY,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Continues every prompt of a batch, until all have ended or have `max_new_tokens` more.

    Args:
        model: its modes (training, compute) are changed while it computes a step, and are then as before.
        input_ids: int64 ``[B, T]``. Shorter prompts are padded on the left: `left_pad`.
        max_new_tokens: at most so many ids are added. The prompt, its padding, and all new ids but the last (which the
            model need not read) must fit into the context.
        decoding: how ids are chosen, when a text ends, and how the layers compute.
        attention_mask: ``[B, T]``, 1 at text and 0 at padding, which must lie to its left; positions are counted from
            the first 1. None: no padding.

    Returns:
        int64 ``[B, T + n]``: the prompts, and ``n <= max_new_tokens`` new ids. A row that ended earlier than others has
        its end-of-text id, then the padding id of the checkpoint or, if there is none, the end-of-text id again.

    Raises:
        ValueError: an argument out of range, too many tokens for the context, padding that is not on the left, or
            logits that are NaN or infinite.

    Warns:
        UserWarning: the checkpoint's `generation_config.json` asks for something that is not implemented here.

    Example:
        >>> from gpt2_from_scratch import GPTConfig
        >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=16))
        >>> input_ids, attention_mask = left_pad([[1, 2, 3], [4]])
        >>> generate(model, input_ids, max_new_tokens=5, attention_mask=attention_mask).shape
        torch.Size([2, 8])
    """
    new = list(steps(model, input_ids, max_new_tokens, decoding, attention_mask))
    return torch.cat([input_ids, torch.stack(new, dim=1)], dim=1)  # out of inference mode, so it can be trained on


def steps(
    model: GPTModel,
    input_ids: Tensor,
    max_new_tokens: int = 20,
    decoding: Decoding = GREEDY,
    attention_mask: Tensor | None = None,
) -> Iterator[Tensor]:
    """The new ids ``[B]`` of each step, as soon as they are computed; together the same as from `generate`.

    Arguments, errors and warnings are those of `generate`. Wrong arguments are an error at once, not with the first
    step. A step is computed when it is asked for.

    Example:
        >>> from gpt2_from_scratch import GPTConfig
        >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=16))
        >>> [step.shape for step in steps(model, torch.tensor([[1, 2], [3, 4]]), max_new_tokens=3)]
        [torch.Size([2]), torch.Size([2]), torch.Size([2])]
    """
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(
            f"input_ids must be token ids [B, T] with at least one token, not of shape {list(input_ids.shape)}"
        )
    _check_room(model.config.n_positions, input_ids.size(1), max_new_tokens)
    text = _checked_mask(attention_mask, input_ids)
    if model.generation_config is not None and model.generation_config.ignored:
        warnings.warn(
            "generation_config.json asks for what is not followed here: " + ", ".join(model.generation_config.ignored),
            stacklevel=2,
        )
    return _decode(model, input_ids, text, max_new_tokens, decoding)


def stream(model: GPTModel, ids: Sequence[int], max_new_tokens: int = 20, decoding: Decoding = GREEDY) -> Iterator[int]:
    """The new ids of one prompt, one by one as they are computed; together the same as from `generate`.

    Args:
        model: as in `generate`.
        ids: the prompt, at least one id.
        max_new_tokens: as in `generate`.
        decoding: as in `generate`.

    Returns:
        An iterator; each id is computed when it is asked for. The end-of-text id comes last, if the text ends.

    Raises:
        ValueError: as in `generate`; wrong arguments at once, not with the first id.

    Example:
        >>> from gpt2_from_scratch import GPTConfig
        >>> model = GPTModel(GPTConfig(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=16))
        >>> [1, 2, 3, *stream(model, [1, 2, 3], 5)] == generate(model, torch.tensor([[1, 2, 3]]), 5)[0].tolist()
        True
    """
    input_ids = torch.tensor([list(ids)], dtype=torch.int64, device=model.wte.weight.device)
    return (int(step) for step in steps(model, input_ids, max_new_tokens, decoding))


def stream_text(
    model: GPTModel,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    max_new_tokens: int = 20,
    decoding: Decoding = GREEDY,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """The text that continues a prompt, piece by piece as it is computed; no piece ends inside a character.

    Args:
        model: as in `generate`.
        tokenizer: the model's, from `load_tokenizer`.
        prompt: a text, or its ids. Special tokens such as ``<|endoftext|>`` are recognised in a text, as in
            transformers. For ``""`` see `prompt_ids`.
        max_new_tokens: as in `generate`.
        decoding: as in `generate`.
        stop: the text ends before the first of these.

    Returns:
        An iterator over the new text, without the prompt and without the end-of-text token.

    Raises:
        ValueError: as in `stream` and `prompt_ids`.
        TokenizerError: the model chose an id that no token has.

    Example:
        >>> from gpt2_from_scratch import load_tokenizer
        >>> text = stream_text(GPTModel.from_pretrained(), load_tokenizer(), "Once upon a time", 3)
        >>> "".join(text)
        ' there was a'
    """
    start = prompt_ids(model, tokenizer, prompt) if isinstance(prompt, str) else prompt
    ids = stream(model, start, max_new_tokens, decoding)
    return until(_pieces(ids, StreamDecoder(tokenizer), stop_ids(model, decoding)), stop)


def prompt_ids(model: GPTModel, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt. For an empty prompt, the one id that starts a text.

    That is the model's start-of-text id, or else its end-of-text id, which separated the texts GPT-2 was trained on.

    Args:
        model: whose special ids are taken.
        tokenizer: the model's.
        prompt: any text; special tokens in it are recognised.

    Raises:
        ValueError: the prompt is empty, and the model has no such id.
    """
    if ids := tokenizer.encode(prompt, allowed_special="all"):
        return ids
    config = model.config
    for token_id in (config.bos_token_id, *stop_ids(model, GREEDY)):
        if token_id is not None and 0 <= token_id < config.vocab_size:
            return [token_id]
    raise ValueError(
        f"the prompt is empty, and the model has no token to start from: bos_token_id {config.bos_token_id} and "
        f"eos_token_id {config.eos_token_id} are not in its vocabulary of {config.vocab_size}; give a prompt"
    )


def stop_ids(model: GPTModel, decoding: Decoding) -> tuple[int, ...]:
    """The ids at which a text ends: those of `decoding`, or else the checkpoint's."""
    eos = decoding.eos_token_id
    if eos is None:
        known = model.generation_config
        return model.config.eos_token_ids if known is None else known.eos_token_ids
    return (eos,) if isinstance(eos, int) else tuple(eos)


def until(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """The text up to the first of the texts in `stop`, which is left out.

    An end that may be the beginning of a stop text is held back until the next piece shows whether it is.

    Args:
        pieces: of the text.
        stop: the stop texts.

    Raises:
        ValueError: an empty text in `stop`, which every text contains.

    Example:
        >>> "".join(until(iter(["a st", "op", " b"]), ["stop"]))
        'a '
    """
    if "" in stop:
        raise ValueError("a stop text is empty: every text would end at once")
    return _until(pieces, stop)


def _until(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        held += piece
        if found := [at for text in stop if (at := held.find(text)) >= 0]:
            held = held[: min(found)]
            break
        starts = (n for text in stop for n in range(1, len(text)) if held.endswith(text[:n]))
        keep = len(held) - max(starts, default=0)
        if held[:keep]:
            yield held[:keep]
        held = held[keep:]
    if held:
        yield held


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Puts prompts of different lengths into one batch, for `generate`.

    Args:
        prompts: token ids, at least one each.
        pad_id: what to fill up with. It is masked, so any id of the vocabulary will do.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 ``[B, T]`` with ``T`` the longest prompt's length.

    Raises:
        ValueError: no prompts, or an empty one.

    Example:
        >>> left_pad([[5, 6, 7], [8]])
        (tensor([[5, 6, 7],
                [0, 0, 8]]), tensor([[1, 1, 1],
                [0, 0, 1]]))
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or 0 in lengths:
        which = f"prompt {lengths.index(0)} is empty" if lengths else "there are no prompts"
        raise ValueError(f"{which}: GPT-2 continues at least one token, such as the end-of-text id")
    gaps = [max(lengths) - length for length in lengths]
    input_ids = [[pad_id] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
    attention_mask = [[0] * gap + [1] * length for gap, length in zip(gaps, lengths, strict=True)]
    return torch.tensor(input_ids), torch.tensor(attention_mask)


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The distribution that `generate` draws from: temperature, then top-k, then top-p.

    Args:
        logits: finite, float32 ``[B, V]``.
        temperature: as in `generate`, above 0.
        top_k: as in `generate`. Ids as likely as the last of them are kept too.
        top_p: as in `generate`.

    Returns:
        float32 ``[B, V]``; every row sums to 1.

    Example:
        >>> probabilities(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_p=0.7)
        tensor([[0.6250, 0.3750, 0.0000]])
    """
    # The largest logit becomes 0 first, so that no temperature overflows, not even one that float32 rounds to 0.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / max(temperature, torch.finfo(logits.dtype).tiny)
    if top_k is not None:
        lowest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -math.inf)
    if top_p is not None:
        # Ids are removed from the unlikely end, as long as their sum is at most 1 - top_p. transformers sums in this
        # order, too; in another order rounding may keep an id more or less.
        ascending, ids = logits.sort(dim=-1)
        tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        tail[:, -1] = False
        logits = logits.masked_fill(tail.scatter(-1, ids, tail), -math.inf)
    return logits.softmax(dim=-1)


# ---------------------------------------------------------------------------------------------------------- the loop


@torch.inference_mode()  # as a decorator it ends at each `yield`; a `with` in here would reach into the caller's code
def _decode(
    model: GPTModel, ids: Tensor, text: Tensor | None, max_new_tokens: int, decoding: Decoding
) -> Iterator[Tensor]:
    """Yields each step's ids ``[B]``. `ids` and `text`, which is True where they are no padding: the running rows."""
    batch, length = ids.shape
    choose, fill, ends = _chooser(model, decoding, ids.device), _filler(model, decoding), stop_ids(model, decoding)
    stop = torch.tensor(ends, dtype=torch.int64, device=ids.device)
    cache = model.new_cache(batch, capacity=length + max_new_tokens - 1)
    modules = list(model.modules())
    rows = torch.arange(batch, device=ids.device)  # where in the whole batch the running rows belong
    for _ in range(max_new_tokens):
        with _generating(modules, decoding.compute):
            logits = model.lm_head(_last_hidden_state(model, ids, text, cache)).float()  # (B, V)
        _check_finite(logits, ids.size(1), model.wte.weight.dtype)
        new = choose(logits, ids, text)  # (B,)
        yield torch.full((batch,), fill, device=ids.device).index_copy(0, rows, new)
        ids = torch.cat([ids, new[:, None]], dim=1)
        text = torch.cat([text, torch.ones_like(text[:, :1])], dim=1) if text is not None else None
        running = torch.isin(new, stop, invert=True)
        if not running.any():
            return
        if not running.all():
            rows, ids, text = rows[running], ids[running], text[running] if text is not None else None
            cache.keep_rows(running.nonzero().squeeze(1))


# Tokens read in one pass: eight whole contexts, whose inner activations take 0.1 GB in the smallest GPT-2 and 0.2 in
# the largest. A single prompt is never cut, because it would then round differently from transformers.
_AT_ONCE = 8192


def _last_hidden_state(model: GPTModel, ids: Tensor, text: Tensor | None, cache: KVCache) -> Tensor:
    """Runs the model on the tokens that are not cached, in chunks to bound the memory. Returns ``[B, E]``."""
    batch, length = ids.shape
    chunk = max(1, _AT_ONCE // batch)
    visible = positions = None
    for start in range(cache.length, length, chunk):
        end = min(start + chunk, length)
        if text is not None:
            visible = text[:, :end]
            positions = (visible.cumsum(dim=-1) - 1).clamp(min=0)[:, start:]  # padding needs some position, too
        hidden = model.hidden_states(ids[:, start:end], visible, positions, cache)  # (B, chunk, E)
    return hidden[:, -1]


@contextmanager
def _generating(modules: Sequence[nn.Module], compute: Compute) -> Iterator[None]:
    """Inside, the modules are in eval mode and compute in this way; afterwards each is as it was."""
    training = [module for module in modules if module.training]
    others = [(module, way) for module in modules if isinstance(way := vars(module).get("compute"), Compute)]
    others = [(module, way) for module, way in others if way != compute]
    try:
        for module in training:
            module.training = False
        for module, _ in others:
            vars(module)["compute"] = compute  # not by `nn.Module.__setattr__`, which takes longer than all the rest
        yield
    finally:
        for module in training:
            module.training = True
        for module, way in others:
            vars(module)["compute"] = way


Choose = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _chooser(model: GPTModel, decoding: Decoding, device: torch.device) -> Choose:
    """A function from logits ``[B, V]``, ids ``[B, T]`` and where they are text ``[B, T]`` to new ids ``[B]``."""
    known, penalty = model.generation_config, decoding.repetition_penalty
    if penalty is None:
        penalty = 1.0 if known is None else known.repetition_penalty
    generator = torch.Generator(device)
    if decoding.seed is None:
        generator.seed()  # from the system; a new generator always starts with the same seed
    else:
        generator.manual_seed(decoding.seed)

    def choose(logits: Tensor, ids: Tensor, text: Tensor | None) -> Tensor:
        if penalty != 1:
            logits = penalised(logits, ids, penalty, text)
        if decoding.temperature == 0:
            return logits.argmax(dim=-1)
        chances = probabilities(logits, decoding.temperature, decoding.top_k, decoding.top_p)
        return torch.multinomial(chances, 1, generator=generator).squeeze(1)

    return choose


def penalised(logits: Tensor, ids: Tensor, penalty: float, text: Tensor | None = None) -> Tensor:
    """Logits under a repetition penalty: those of ids that occur are divided by it if positive, else multiplied.

    Args:
        logits: float32 ``[B, V]``.
        ids: int64 ``[B, T]``, the text so far.
        penalty: above 1 makes repetition less likely, below 1 more.
        text: bool ``[B, T]``, False at padding, whose ids do not count. None: no padding.

    Returns:
        float32 ``[B, V]``.

    Example:
        >>> penalised(torch.tensor([[1.0, -1.0, 3.0]]), torch.tensor([[0, 1]]), 2.0)
        tensor([[ 0.5000, -2.0000,  3.0000]])
    """
    counts = torch.ones_like(ids) if text is None else text.long()
    occurs = torch.zeros(logits.shape, dtype=torch.int64, device=ids.device).scatter_add_(1, ids, counts) > 0
    return torch.where(occurs, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _filler(model: GPTModel, decoding: Decoding) -> int:
    """The id that fills a row behind its end; unused when there are no end-of-text ids."""
    known = model.generation_config
    pad = model.config.pad_token_id if known is None else known.pad_token_id
    return pad if pad is not None and pad >= 0 else next(iter(stop_ids(model, decoding)), 0)


# ------------------------------------------------------------------------------------------------------------ checks


def _check_room(context: int, length: int, max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    room = context + 1 - length  # the last new token is not read, so it needs no position
    if max_new_tokens > room:
        remedy = f"ask for at most {room} new tokens" if room > 0 else f"shorten the prompt to {context} tokens at most"
        raise ValueError(
            f"{length} prompt tokens and {max_new_tokens} new ones do not fit into the context of {context}: {remedy}"
        )


def _checked_mask(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor | None:
    """The mask as bool ``[B, T]``, True at text; None where there is no padding."""
    if attention_mask is None:
        return None
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {list(input_ids.shape)}, "
            f"not {list(attention_mask.shape)}"
        )
    text = attention_mask.bool()
    if bool((text != attention_mask).any()):
        raise ValueError("attention_mask must hold 1 at text and 0 at padding, and nothing else")
    wrong = ~text[:, -1] | (text[:, :-1] & ~text[:, 1:]).any(dim=1)
    if bool(wrong.any()):
        raise ValueError(
            f"row {int(wrong.nonzero()[0])} of attention_mask has padding after its text, or no text; pad on the left "
            "(`left_pad` does), because new tokens are added on the right"
        )
    return None if bool(text.all()) else text


def _check_finite(logits: Tensor, tokens: int, dtype: torch.dtype) -> None:
    if not bool(logits.amax(dim=-1).isfinite().all()):  # a maximum passes NaN on
        raise ValueError(
            f"the logits of token {tokens} are NaN or infinite: the model's weights are, or its {dtype_name(dtype)} "
            "overflows (float32 and bfloat16 have the range GPT-2 needs)"
        )


# -------------------------------------------------------------------------------------------------------------- text


def _pieces(ids: Iterator[int], decoder: StreamDecoder, ends: tuple[int, ...]) -> Iterator[str]:
    for token_id in ids:
        if token_id in ends:
            break
        if piece := decoder.feed(token_id):
            yield piece
    if rest := decoder.flush():
        yield rest
