"""The files that belong to the weights: `generation_config.json`, and the tokenizer in the form of each program."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from gpt2_from_scratch.checkpoint import gguf, hub
from gpt2_from_scratch.checkpoint.shards import home
from gpt2_from_scratch.config import GPTConfig
from gpt2_from_scratch.errors import CheckpointError, TokenizerError
from gpt2_from_scratch.loading import Checkpoint, Source
from gpt2_from_scratch.tokenizer import FILES, tokenizer_at, tokenizer_files, tokenizer_place, vocabulary

GENERATION_CONFIG = "generation_config.json"
_MOST_BYTES = 1_000_000  # of a generation_config.json; real ones have a few hundred


@dataclass(frozen=True)
class Companions:
    """What is written beside the weights, or with them into one file.

    Args:
        files: name -> content, for the weights' folder.
        vocabulary: the tokenizer, for a form that holds it in the weights' own file.
        notes: what is missing or was left out, and why.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    vocabulary: gguf.Vocabulary | None = None
    notes: tuple[str, ...] = ()


# The tokenizer at a place, in the form of one program; the configuration says how many ids there may be.
TokenizerForm: TypeAlias = Callable[[Path, GPTConfig], Companions]


def fetched(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[str, ...]:
    """Fetches companions of a checkpoint that is on the Hub.

    Args:
        checkpoint: whose companions.
        names: of their files; those that the repository lacks are passed over.

    Returns:
        Notes, if that failed; nothing for a checkpoint that is not on the Hub.
    """
    if checkpoint.located.repo_id is None:
        return ()
    try:
        hub.fetch(checkpoint.located.repo_id, names, **checkpoint.hub_options)
    except CheckpointError as error:
        what = "the tokenizer" if FILES[0] in names else GENERATION_CONFIG
        return (f"{what} was left out: {error.message}",)
    return ()


def named_tokenizer(source: Source, checkpoint: Checkpoint) -> Path:
    """Where the tokenizer lies that the user named for a checkpoint. It fits the model.

    Args:
        source: a directory, a file in it, or a Hub id.
        checkpoint: which says how many ids there may be, and how the Hub is reached.

    Raises:
        TokenizerError: no tokenizer, a damaged one, one of another model, or one that is not read here; says which.
    """
    options = checkpoint.hub_options
    options.pop("revision", None)  # of the checkpoint's repository
    place = tokenizer_place(source, checkpoint.config.vocab_size, **options)
    for path in tokenizer_files(place):
        _check_link(path)
    return place


def tokenizer_in_form(place: Path, config: GPTConfig, form: TokenizerForm) -> Companions:
    """The tokenizer beside a checkpoint's weights, or in them, in another form. A note says why there is none.

    Args:
        place: the weights' file.
        config: the model's.
        form: how the target holds a tokenizer.
    """
    try:
        if not tokenizer_files(place):
            return Companions(notes=("no tokenizer beside the source, so none was written",))
        for path in tokenizer_files(place):
            _check_link(path)
        return form(place, config)
    except CheckpointError as error:
        return Companions(notes=(f"the tokenizer was left out: {error.message}",))


def generation_config(folder: Path) -> Companions:
    """The `generation_config.json` of a folder, as it is."""
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return Companions()
    try:
        _check_link(path)
    except CheckpointError as error:
        return Companions(notes=(f"{GENERATION_CONFIG} was left out: {error.message}",))
    if path.stat().st_size > _MOST_BYTES:
        return Companions(notes=(f"{GENERATION_CONFIG} was left out: it has more than {_MOST_BYTES:,} bytes",))
    return Companions({GENERATION_CONFIG: path.read_bytes()})


def _check_link(path: Path) -> None:
    """Refuses a link that leads outside its folder: the file there may be anything, and is not copied."""
    if not (target := path.resolve()).is_relative_to(home(path)):
        raise TokenizerError(f"{path} is a link to {target}, outside its folder")


def no_tokenizer(place: Path, config: GPTConfig) -> Companions:
    """Nothing, for programs whose tokenizer is always OpenAI's."""
    return Companions()


def huggingface_tokenizer(place: Path, config: GPTConfig) -> Companions:
    """The files as they are; OpenAI's two files are renamed, and the tokenizer in a GGUF file is written as files."""
    found = tokenizer_files(place)
    if found[0].suffix == ".gguf":
        _, _, added = vocabulary(place)
        files = dict(zip(("vocab.json", "merges.txt"), _spelled_out(place), strict=True))
        return Companions(files | ({"added_tokens.json": json.dumps(added).encode()} if added else {}))
    renamed = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}
    return Companions({renamed.get(path.name, path.name): path.read_bytes() for path in found})


def openai_tokenizer(place: Path, config: GPTConfig) -> Companions:
    """The tokenizer as `encoder.json` and `vocab.bpe`."""
    tokenizer_at(place, config.vocab_size)  # refuses what does not fit the model
    return Companions(dict(zip(("encoder.json", "vocab.bpe"), _spelled_out(place), strict=True)))


def gguf_tokenizer(place: Path, config: GPTConfig) -> Companions:
    """The tokenizer as a part of the weights' file."""
    tokenizer_at(place, config.vocab_size)  # refuses what does not fit the model
    known, merges, added = vocabulary(place)
    texts = {token_id: text for text, token_id in {**known, **added}.items()}
    tokens = [texts.get(token_id, f"[PAD{token_id}]") for token_id in range(max(texts) + 1)]
    merged = [" ".join(pair) for pair in merges]
    return Companions(vocabulary=gguf.Vocabulary(tokens, merged, sorted(added.values())))


def _spelled_out(place: Path) -> tuple[bytes, bytes]:
    """Vocabulary and merges, as OpenAI and Hugging Face write them."""
    known, merges, added = vocabulary(place)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    return json.dumps({**known, **added}).encode(), "\n".join(lines).encode()
