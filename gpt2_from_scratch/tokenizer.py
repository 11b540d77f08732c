"""Text to token ids and back, with a checkpoint's own tokenizer files; the `tokenizers` library does the work.

`load_tokenizer` finds the files and returns a `Tokenizer`. A `tokenizer.json` is used as it is, whatever kind it is.
Vocabulary and merges, in Hugging Face's files, OpenAI's or a GGUF file, make GPT-2's byte-level BPE. A tokenizer with
small errors gives fluent, wrong text. So files that contradict each other or the model are refused, and GPT-2's
tokenizer is never used where another one was meant.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Unpack
from weakref import WeakKeyDictionary

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from gpt2_from_scratch.checkpoint import TINY, HubOptions, gguf, hub
from gpt2_from_scratch.config import read_json
from gpt2_from_scratch.errors import CheckpointError, ConfigError, TokenizerError
from gpt2_from_scratch.loading import Checkpoint, Source

# GPT-2's files write a token as text, one visible character per byte: printable Latin-1 bytes stand for themselves, the
# 68 others are U+0100, U+0101, ... in turn, so that a space is U+0120. In the order of GPT-2's ids.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTES = bytes((*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)))
BYTE_SYMBOLS = bytes(_PRINTABLE).decode("latin-1") + "".join(map(chr, range(0x100, 0x100 + 68)))
_SYMBOLS = frozenset(BYTE_SYMBOLS)
_SYMBOL_TO_BYTE = str.maketrans(BYTE_SYMBOLS, _BYTES.decode("latin-1"))

# How GPT-2 cuts text into pieces before it merges inside each of them: `encoder.py` of OpenAI's release, verbatim. It
# is what `ByteLevel` of the tokenizers library does; a tokenizer.json may spell it out instead.
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

END_OF_TEXT = "<|endoftext|>"

_GPT2 = "openai-community/gpt2"  # its tokenizer is used for a checkpoint without any tokenizer file
# 50,304 is the next multiple of 128, to which nanoGPT and llm.c pad the embedding for speed.
_GPT2_VOCAB_SIZES = (50257, 50304)

_FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_SIDE_FILES = ("added_tokens.json", "tokenizer_config.json")
FILES = tuple(name for form in _FORMS for name in form) + _SIDE_FILES
_GGUF = ".gguf"
_MAX_BYTES = 1 << 26  # GPT-2's tokenizer.json has 1.4 MB; the largest byte-level ones, of 200k tokens, near 30 MB

# Files of other tokenizers, by the names their programs give them, and what they are.
_OTHERS = (
    ("vocab.txt", "a word list, as of WordPiece (BERT)"),
    ("*.model", "a sentencepiece model"),
    ("*.vocab", "a sentencepiece vocabulary"),
    ("*.tiktoken", "tiktoken's ranks of byte sequences"),
    ("meta.pkl", "nanoGPT's table of characters"),
)
# Of `tokenizer_config.json`: classes that read vocab.json and merges.txt as GPT-2 does.
_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")

_EXPECTED = "expected tokenizer.json, or vocab.json with merges.txt, or encoder.json with vocab.bpe"
_DO_WITHOUT = (
    "`gpt2 verify` needs no tokenizer; for `gpt2 generate`, tokenize with the program that belongs to it and give --ids"
)


class Tokenizer:
    """Text to token ids and back.

    Made by `load_tokenizer`. Its methods are called as tiktoken's are, so that code written for ``tiktoken.Encoding``
    (as in the book) runs with it.

    Args:
        name: the file it was read from.
        backend: the tokenizer of the `tokenizers` library.
        assumed: what was assumed, where no file says which tokenizer it is.

    Example:
        >>> tokenizer = load_tokenizer("tiny")
        >>> tokenizer.encode("Once upon a time")
        [493, 494, 258, 446]
        >>> tokenizer.decode([493, 494, 258, 446]), tokenizer.n_vocab
        ('Once upon a time', 512)
    """

    def __init__(self, name: str, backend: tokenizers.Tokenizer, assumed: str = "") -> None:
        self.name = name
        self.assumed = assumed
        self._backend = backend
        self.byte_level = "ByteLevel" in _steps(backend.pre_tokenizer)  # as GPT-2's: a token is a run of bytes
        added = {token.content: token_id for token_id, token in backend.get_added_tokens_decoder().items()}
        self.special_tokens: Mapping[str, int] = MappingProxyType(added)  # text -> id of all added tokens
        self.n_vocab = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1  # above every id

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, n_vocab={self.n_vocab})"

    @property
    def eot_token(self) -> int | None:
        """The id of ``<|endoftext|>``, if there is such a token."""
        return self.special_tokens.get(END_OF_TEXT)

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer without its added tokens."""
        return tokenizers.Tokenizer.from_str(json.dumps(json.loads(self._backend.to_str()) | {"added_tokens": []}))

    def encode(self, text: str, *, allowed_special: Literal["all"] | Collection[str] = ()) -> list[int]:
        """The ids of a text.

        With ``allowed_special="all"`` they are those of transformers, which recognises special tokens such as
        ``<|endoftext|>`` in any text. By default a text that contains one is refused, as it is by tiktoken: text that
        somebody else wrote may contain it by accident, or on purpose.

        Args:
            text: any text.
            allowed_special: the special tokens that are recognised, or ``"all"``.

        Raises:
            ValueError: the text contains a special token that is not allowed.
        """
        if allowed_special != "all":
            for token in self.special_tokens:
                if token not in allowed_special and token in text:
                    raise ValueError(
                        f'the text contains the special token {token!r}: give allowed_special="all" to have it '
                        "recognised, or use encode_ordinary, which reads it as letters"
                    )
        return self._ids(self._backend, text)

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are read as ordinary characters."""
        return self._ids(self._plain, text, add_special_tokens=False)

    def _ids(self, backend: tokenizers.Tokenizer, text: str, **options: bool) -> list[int]:
        try:
            return backend.encode(_scalars(text), **options).ids
        except Exception as error:  # the library raises no other: a model without a token for what it does not know
            raise TokenizerError(f"the tokenizer cannot encode this text: {error}") from error

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are no UTF-8 become U+FFFD.

        Raises:
            TokenizerError: an id that no token has.
        """
        ids = list(ids)
        tokens = [self._token(token_id) for token_id in ids]
        if not self.byte_level:
            return self._backend.decode(ids, skip_special_tokens=False)
        return b"".join(map(self._bytes_of, tokens)).decode(errors="replace")

    def text_of(self, token_id: int) -> str:
        """The text of one id, for people to read; ``[50300]`` for one that no token has, as of padded rows."""
        try:
            return self.decode([token_id])
        except TokenizerError:
            return f"[{token_id}]"

    def _bytes_of(self, token: str) -> bytes:
        if token in self.special_tokens or not _SYMBOLS.issuperset(token):
            return token.encode()
        return token.translate(_SYMBOL_TO_BYTE).encode("latin-1")

    def _token(self, token_id: int) -> str:
        """The token of an id, as the vocabulary writes it."""
        try:
            token = self._backend.id_to_token(token_id)
        except OverflowError:  # negative, or more than 32 bits
            token = None
        if token is None:
            raise TokenizerError(
                f"{self.name} has no token with id {token_id}; its ids end at {self.n_vocab - 1}",
                hint="a model's padded rows have no tokens; any other such id is from another tokenizer",
            )
        return token


class StreamDecoder:
    """Turns token ids into text one at a time, as they are generated.

    A token is a run of bytes and may end inside a character (most emoji are several tokens), so that ids decoded one by
    one show U+FFFD. Here an unfinished character is held back until its last byte is there.

    Args:
        tokenizer: the tokenizer whose ids are fed.

    Example:
        >>> stream = StreamDecoder(load_tokenizer("tiny"))
        >>> [stream.feed(token_id) for token_id in load_tokenizer("tiny").encode("né")], stream.flush()
        (['n', '', 'é'], '')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0  # characters of their text

    def feed(self, token_id: int) -> str:
        """The text that this id completes; may be empty.

        Raises:
            TokenizerError: no token has this id.
        """
        text = self._tokenizer.decode([*self._ids, token_id])
        self._ids.append(token_id)
        piece = self._next(text.rstrip("\ufffd"))
        if self._tokenizer.byte_level and self._shown == len(text):  # whole so far: what follows does not depend on it
            self._ids, self._shown = [], 0
        return piece

    def flush(self) -> str:
        """Ends the text: returns what is still held back, as U+FFFD, and resets the decoder.

        All pieces together are what `Tokenizer.decode` makes of all ids.
        """
        rest = self._next(self._tokenizer.decode(self._ids))
        self._ids, self._shown = [], 0
        return rest

    def _next(self, text: str) -> str:
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece


def load_tokenizer(
    source: Source | Checkpoint = TINY, *, vocab_size: int | None = None, **options: Unpack[HubOptions]
) -> Tokenizer:
    """The tokenizer of a checkpoint, from the checkpoint's own files.

    Args:
        source: a directory; a GGUF file with a tokenizer in it; any other file (its folder is used); a Hub id
            (``openai-community/gpt2``); ``tiny``, the model inside the package; or an opened `Checkpoint`.
        vocab_size: rows of the model's embedding, ``V``; every id must be below it. By default what `config.json` or
            `hparams.json` beside the files says. Where there is no file of any tokenizer and ``V`` is GPT-2's 50,257
            (or 50,304, padded), GPT-2's is assumed, and fetched from the Hub; `Tokenizer.assumed` then says so.
        **options: where on the Hub; see `HubOptions`. An opened checkpoint brings its own.

    Raises:
        TokenizerError: no tokenizer, a damaged one, one of another model, or one that is not read here; says which.

    Example:
        >>> load_tokenizer("tiny").encode("Once upon a time<|endoftext|>", allowed_special="all")
        [493, 494, 258, 446, 511]
    """
    if isinstance(source, Checkpoint):
        if vocab_size is not None:
            return _of_checkpoint(source, vocab_size)
        if source not in _LOADED:
            _LOADED[source] = _of_checkpoint(source, source.config.vocab_size)
        return _LOADED[source]
    return _of_source(source, vocab_size, options)


_LOADED: WeakKeyDictionary[Checkpoint, Tokenizer] = (
    WeakKeyDictionary()
)  # a report writes with what prompts were read by


def _of_checkpoint(checkpoint: Checkpoint, vocab_size: int) -> Tokenizer:
    located, options = checkpoint.located, checkpoint.hub_options
    if located.repo_id is None:
        return _at_or_gpt2s(located.weights, vocab_size, options)
    return _of_source(located.repo_id, vocab_size, options)


def _of_source(source: Source, vocab_size: int | None, options: HubOptions) -> Tokenizer:
    place = _place_of(source, options)
    return _gpt2s(str(source), vocab_size, options) if place is None else _at_or_gpt2s(place, vocab_size, options)


def tokenizer_place(source: Source, vocab_size: int, **options: Unpack[HubOptions]) -> Path:
    """Where the files of a tokenizer lie that the user named for a model. GPT-2's is not assumed in their stead.

    Args:
        source: a directory, a file in it, a GGUF file, a Hub id (whose files are fetched), or ``tiny``.
        vocab_size: rows of the model's embedding, ``V``; every id must be below it.
        **options: where on the Hub; see `HubOptions`.

    Returns:
        A place for `tokenizer_files`, `tokenizer_at` and `vocabulary`.

    Raises:
        TokenizerError: as in `load_tokenizer`; or there are no tokenizer files.

    Example:
        >>> [path.name for path in tokenizer_files(tokenizer_place("tiny", 512))]
        ['vocab.json', 'merges.txt']
    """
    place = _place_of(source, options)
    if place is None:
        raise TokenizerError(f"{source} has no tokenizer files", hint=_EXPECTED)
    tokenizer_at(place, vocab_size)
    return place


def _place_of(source: Source, options: HubOptions) -> Path | None:
    """The directory or file that a source names; None for a Hub repository without any file of a tokenizer."""
    path = TINY if source == TINY.name and not Path(source).exists() else Path(source)
    if path.exists():
        return path
    if not isinstance(source, str) or not hub.is_repo_id(source):
        raise TokenizerError(
            f"{source} does not exist", hint="give a directory, a file inside one, or a Hub id (owner/name)"
        )
    others = tuple(name for name, _ in _OTHERS if "*" not in name)
    fetched = hub.fetch(source, (*FILES, "config.json", "spiece.model", *others), **options)
    folder = next(iter(fetched.values())).parent if fetched else None
    if folder is None or not tokenizer_files(folder):
        missed = hub.unknown(source, FILES, **options)
        if missed:  # the repository may have one that was never looked for
            raise TokenizerError(
                f"{source}: there is no tokenizer in the Hub's cache, nor is it known whether the repository has one "
                f"({', '.join(missed)})",
                hint="load it once with the network on, or give token ids",
            )
    return folder


def tokenizer_files(place: Path) -> tuple[Path, ...]:
    """The files `tokenizer_at` reads: the first complete form, and what adds tokens to it.

    The tokenizer inside a GGUF file is preferred to files beside it. Of these, `tokenizer.json` is preferred to
    `vocab.json` with `merges.txt`, as in transformers; then come OpenAI's, and a GGUF file, if there is only one.

    Args:
        place: the checkpoint's folder, or a file in it.

    Returns:
        Existing paths, the vocabulary first; empty if no form is complete.

    Example:
        >>> tokenizer_files(Path("no such folder"))
        ()
    """
    if place.is_file() and _holds_tokenizer(place):
        return (place,)
    directory = _folder(place)
    for form in _FORMS:
        if all((directory / name).is_file() for name in form):
            return tuple(path for name in (*form, *_SIDE_FILES) if (path := directory / name).is_file())
    found = tuple(directory.glob(f"*{_GGUF}"))
    return found if place.is_dir() and len(found) == 1 and _holds_tokenizer(found[0]) else ()


def tokenizer_at(place: Path, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer whose files lie in `place`: what `load_tokenizer` does once they are on disk.

    Args:
        place: the checkpoint's folder, or a file in it.
        vocab_size: rows of the model's embedding, ``V``, as in `load_tokenizer`.

    Raises:
        TokenizerError: as in `load_tokenizer`.

    Example:
        >>> tokenizer_at(Path("no such folder"))
        Traceback (most recent call last):
        gpt2_from_scratch.errors.TokenizerError: no such folder has no tokenizer files
          hint: expected tokenizer.json, or vocab.json with merges.txt, or encoder.json with vocab.bpe
    """
    files = tokenizer_files(place)
    if not files:
        _refuse_other_tokenizers(_folder(place))
        raise TokenizerError(f"{place} has no tokenizer files", hint=_EXPECTED)
    main = files[0]
    if vocab_size is None and main.suffix != _GGUF:  # which has a token for each row
        vocab_size = _model_vocab_size(_folder(place))
    if main.name == "tokenizer.json":
        backend = _backend_from(main)
    else:
        found = _vocabulary(files)
        with _naming(main):
            backend = _byte_level_bpe(*found)
    added = _added_tokens(path for path in files if path.name in _SIDE_FILES)
    with _naming(main):
        _add(backend, added)
        _check_ids(backend, vocab_size)
    return Tokenizer(str(main), backend)


class BpeVocabulary(NamedTuple):
    """The content of a byte-level BPE's files. Tokens and merges are in GPT-2's byte symbols.

    Args:
        ids: token -> id.
        merges: the pairs that are joined, first merge first.
        added: text -> id of tokens that no merge makes, such as ``<|endoftext|>``.
    """

    ids: dict[str, int]
    merges: list[tuple[str, str]]
    added: dict[str, int]


def vocabulary(place: Path) -> BpeVocabulary:
    """Reads a tokenizer's vocabulary and merges, for writing them in another form.

    Args:
        place: the checkpoint's folder, or a file in it; `tokenizer_files` finds files there.

    Raises:
        TokenizerError: as in `load_tokenizer`; or the tokenizer is not GPT-2's byte-level BPE, which is all that
            vocabulary and merges can express.
    """
    files = tokenizer_files(place)
    if files[0].name != "tokenizer.json":
        return _vocabulary(files)
    backend = _backend_from(files[0])
    with _naming(files[0]):
        content = json.loads(backend.to_str())
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
        if content["model"]["type"] != "BPE":
            raise _unlike_gpt2(f"its model is {content['model']['type']}")
        merges = [(left, right) for left, right in content["model"]["merges"]]
        added |= {text: token.id for text, token in _added_tokens(files[1:]).items()}
        found = BpeVocabulary(content["model"]["vocab"], merges, added)
        _check_same_as_gpt2(content, _byte_level_bpe(*found))
        return found


def _folder(place: Path) -> Path:
    return place.parent if place.is_file() else place


def _holds_tokenizer(path: Path) -> bool:
    """Whether this is a GGUF file with a tokenizer in it; if it is damaged, reading it says so."""
    if path.suffix != _GGUF:
        return False
    try:
        return gguf.vocabulary(path) is not None
    except CheckpointError:
        return True


def _model_vocab_size(directory: Path) -> int | None:
    for name, field in (("config.json", "vocab_size"), ("hparams.json", "n_vocab")):
        if (path := directory / name).is_file():
            content = read_json(path)
            size = content.get(field) if isinstance(content, dict) else None
            return size if isinstance(size, int) else None
    return None


# ---- Where there are no files


def _at_or_gpt2s(place: Path, vocab_size: int | None, options: HubOptions) -> Tokenizer:
    """The tokenizer in `place`, or GPT-2's where there is no file of any tokenizer."""
    if tokenizer_files(place):
        return tokenizer_at(place, vocab_size)
    _refuse_other_tokenizers(_folder(place))
    return _gpt2s(str(place), _model_vocab_size(_folder(place)) if vocab_size is None else vocab_size, options)


def _gpt2s(where: str, vocab_size: int | None, options: HubOptions) -> Tokenizer:
    """GPT-2's own tokenizer, for a checkpoint without tokenizer files and with as many ids as GPT-2."""
    if vocab_size is None:
        raise TokenizerError(f"{where} has no tokenizer files", hint=_EXPECTED)
    if vocab_size not in _GPT2_VOCAB_SIZES:
        raise TokenizerError(
            f"{where} has no tokenizer files, and a vocabulary of {vocab_size}; GPT-2's has 50257 (50304, padded)",
            hint=f"{_EXPECTED}; without them, give token ids (gpt2 generate --ids 5,3,1)",
        )
    try:
        where_kept = HubOptions(
            cache_dir=options.get("cache_dir"), local_files_only=options.get("local_files_only", False)
        )
        folder = hub.fetch(_GPT2, ("tokenizer.json",), **where_kept)["tokenizer.json"]
    except (CheckpointError, KeyError) as error:
        raise TokenizerError(
            f"{where} has no tokenizer files, and GPT-2's cannot be fetched: {str(error).splitlines()[0]}",
            hint="connect once (the Hub's cache keeps it), or put GPT-2's tokenizer files beside the weights",
        ) from None
    found = tokenizer_at(folder, vocab_size)
    found.assumed = f"GPT-2's tokenizer is assumed, as {where} has none and a vocabulary of {vocab_size}"
    return found


def _refuse_other_tokenizers(directory: Path) -> None:
    """Refuses a folder with files of another tokenizer, or of an incomplete one, in place of which GPT-2's is wrong."""
    if parts := [name for name in FILES if (directory / name).is_file()]:
        what = _what_config_says(directory) or _characters(directory)
        raise TokenizerError(
            f"{directory} has {', '.join(parts)}, not a whole tokenizer{what}", hint=f"{_EXPECTED}. {_DO_WITHOUT}"
        )
    for pattern, what in _OTHERS:
        if found := sorted(path.name for path in directory.glob(pattern)):
            raise TokenizerError(
                f"{directory} has {', '.join(found)}, {what}: not GPT-2's byte-level BPE", hint=_DO_WITHOUT
            )


def _what_config_says(directory: Path) -> str:
    """The class in `tokenizer_config.json`, as the end of a sentence."""
    path = directory / "tokenizer_config.json"
    with suppress(TokenizerError):
        name = _read_object(path).get("tokenizer_class")
        return f"; its class is {name}" if name else ""
    return ""


def _characters(directory: Path) -> str:
    """For a `vocab.json` of single characters, that it is one, as the end of a sentence."""
    with suppress(TokenizerError):
        tokens = _read_object(directory / "vocab.json")
        if tokens and all(len(token) == 1 for token in tokens):
            return f"; its {len(tokens)} tokens are single characters"
    return ""


# ---- From files to vocabulary, merges and added tokens


class _Added(NamedTuple):
    """A token that is recognised in the text before it is cut into pieces."""

    id: int
    settings: dict[str, bool]  # of `AddedToken`: lstrip, rstrip, single_word, normalized


def _backend_from(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer that a tokenizer.json describes."""
    content = _read_object(path)
    with _naming(path):
        if isinstance(model := content.get("model"), dict) and model.get("dropout"):
            raise TokenizerError(
                f"the model sets dropout: {model['dropout']!r}, so that the same text has other ids each time",
                hint="it is for training the model; set it to null",
            )
        with _library("the file cannot be read"):
            backend = tokenizers.Tokenizer.from_str(json.dumps(content))
        backend.no_truncation()  # transformers sets these two in each call
        backend.no_padding()
        return backend


def _vocabulary(files: Sequence[Path]) -> BpeVocabulary:
    main, *others = files
    if main.suffix == _GGUF:
        return _gguf_vocabulary(main)
    ids = _read_object(main)
    wrong = [token for token, token_id in ids.items() if type(token_id) is not int or not 0 <= token_id < 1 << 32]
    if wrong:  # the library's ids have 32 bits; a bool is an int in Python
        raise TokenizerError(f"{main}: token {wrong[0][:40]!r} has {str(ids[wrong[0]])[:40]!r} for an id")
    _refuse_other_classes(others)
    added = {text: token.id for text, token in _added_tokens(others[1:]).items()}
    with _naming(main):
        with _library(f"it cannot be read together with {others[0].name}"):
            _, merges = models.BPE.read_file(str(main), str(others[0]))
        return BpeVocabulary(ids, merges, _undeclared(ids, merges, added) | added)


def _gguf_vocabulary(path: Path) -> BpeVocabulary:
    known = gguf.vocabulary(path)
    assert known is not None, "asked by `tokenizer_files`"
    apart = {*known.special, *known.unused}
    with _naming(path):
        if len(set(known.tokens)) < len(known.tokens):
            raise TokenizerError("two ids have the same token", hint="convert the model again")
        ids = {token: token_id for token_id, token in enumerate(known.tokens) if token_id not in apart}
        merges, added = _pairs(known.merges), {known.tokens[token_id]: token_id for token_id in known.special}
        return BpeVocabulary(ids, merges, _undeclared(ids, merges, added) | added)


def _undeclared(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], added: Mapping[str, int]) -> dict[str, int]:
    """Tokens of the vocabulary that no merge makes and no file declares as added."""
    made = {left + right for left, right in merges}.union(BYTE_SYMBOLS, added)
    found = {token: token_id for token, token_id in ids.items() if token not in made}
    # OpenAI's files declare nothing, not even <|endoftext|>, and vocabularies that people train often start with an
    # undeclared <s> <pad> </s> <unk> <mask>. A token without such brackets has lost its merge: a merges file that was
    # cut short must not pass for a tokenizer.
    if lost := [token for token in found if token[:1] + token[-1:] not in ("<>", "[]")]:
        raise TokenizerError(
            f"{len(lost)} of {len(ids)} tokens are made by none of the {len(merges)} merges: {_some(lost)}",
            hint="the merges are cut short, or special tokens lack a declaration in added_tokens.json",
        )
    return found


def _added_tokens(files: Iterable[Path]) -> dict[str, _Added]:
    """What added_tokens.json and tokenizer_config.json add; both may name the same token, if they agree."""
    added: dict[str, _Added] = {}
    for path in files:
        content = _read_object(path)
        with _naming(path):
            for text, token in _declared(content, path.name == "tokenizer_config.json"):
                if added.setdefault(text, token).id != token.id:
                    raise TokenizerError(f"added token {text!r} has two ids, {added[text].id} and {token.id}")
                added[text] = token
    return added


def _declared(content: Mapping[str, Any], is_config: bool) -> Iterator[tuple[str, _Added]]:
    if not is_config:
        for text, token_id in content.items():
            if type(token_id) is not int:  # a bool is an int in Python
                raise TokenizerError(f"token {text[:40]!r} has {str(token_id)[:40]!r} for an id")
            yield text, _Added(token_id, {})
        return
    for setting in ("add_prefix_space", "add_bos_token", "add_eos_token"):
        if content.get(setting):
            raise _unlike_gpt2(f"{setting} is true")
    decoder = content.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise TokenizerError(f"added_tokens_decoder is {str(decoder)[:40]}, not a JSON object")
    for key, entry in decoder.items():
        written = entry.get("content") if isinstance(entry, dict) else None
        if not key.isdecimal() or not isinstance(written, str) or not written:
            raise TokenizerError(f"added_tokens_decoder has {key[:40]!r}: {str(entry)[:40]}, not an id with its token")
        settings = {name: bool(entry.get(name)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
        yield written, _Added(int(key), settings)


def _pairs(merges: Iterable[str]) -> list[tuple[str, str]]:
    """Merges as pairs, of lines "a b"."""
    pairs = []
    for number, merge in enumerate(merges, start=1):
        halves = merge.split(" ")
        if len(halves) != 2 or "" in halves:
            raise TokenizerError(f"merge {number} is {repr(merge)[:60]}, not two tokens")
        pairs.append((halves[0], halves[1]))
    return pairs


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, _MAX_BYTES)
    except ConfigError as error:
        hint = "download it again; in a git clone, `git lfs pull` fetches the files behind pointers"
        raise TokenizerError(error.message, hint=hint) from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path}: the content is {str(content)[:40]}, not a JSON object")
    return content


# ---- From those to a tokenizer of the library


def _byte_level_bpe(
    ids: Mapping[str, int], merges: Sequence[tuple[str, str]], added: Mapping[str, int]
) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer with this vocabulary."""
    for text, token_id in added.items():
        if ids.get(text, token_id) != token_id:
            raise TokenizerError(f"token {text!r} has two ids, {ids[text]} and (added) {token_id}")
    # Added tokens are in the model's vocabulary, too: the library gives others an id of its own. No merge makes them.
    with _library("vocabulary and merges are of two different tokenizers, or damaged"):
        backend = tokenizers.Tokenizer(models.BPE(vocab={**ids, **added}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in added])
    return backend


def _add(backend: tokenizers.Tokenizer, added: Mapping[str, _Added]) -> None:
    """Declares tokens in a tokenizer, as transformers does with what lies beside a tokenizer.json."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for text, token in sorted(added.items(), key=lambda each: each[1].id):
        if text not in known:
            backend.add_special_tokens([AddedToken(text, **token.settings)])
        if backend.token_to_id(text) != token.id:
            raise TokenizerError(f"token {text!r} has two ids, {backend.token_to_id(text)} and (added) {token.id}")


# ---- Checks


def _check_ids(backend: tokenizers.Tokenizer, vocab_size: int | None) -> None:
    """Refuses ids with two tokens, ids without a row in the model, and a byte-level tokenizer that lacks a byte."""
    vocab = backend.get_vocab(with_added_tokens=True)
    token_of: dict[int, str] = {}
    for token, token_id in vocab.items():
        if (other := token_of.setdefault(token_id, token)) != token:
            raise TokenizerError(f"id {token_id} has two tokens, {min(token, other)!r} and {max(token, other)!r}")
    if "ByteLevel" in _steps(backend.pre_tokenizer) and (lost := [s for s in BYTE_SYMBOLS if s not in vocab]):
        raise _unlike_gpt2(f"{len(lost)} of the 256 byte symbols are missing, {_some(lost)}")
    if vocab_size is not None and (outside := sorted(id_ for id_ in token_of if id_ >= vocab_size)):
        raise TokenizerError(
            f"{len(outside)} ids are outside the model's {vocab_size} rows, first {outside[0]} "
            f"({token_of[outside[0]]!r})",
            hint="these are another model's files, or tokens were added and the model was not resized",
        )


def _refuse_other_classes(side_files: Iterable[Path]) -> None:
    """Refuses files of RoBERTa, CLIP and others, whose vocab.json and merges.txt are read in another way."""
    for path in side_files:
        if path.name == "tokenizer_config.json":
            name = _read_object(path).get("tokenizer_class")
            if name is not None and name not in _GPT2_CLASSES:
                with _naming(path):
                    raise _unlike_gpt2(f"tokenizer_class is {str(name)[:40]}")


def _check_same_as_gpt2(content: Mapping[str, Any], gpt2: tokenizers.Tokenizer) -> None:
    """Refuses a tokenizer.json whose steps differ from GPT-2's, as vocabulary and merges alone cannot express them."""
    split = {"type": "Split", "pattern": {"Regex": GPT2_SPLIT}, "behavior": "Isolated", "invert": False}
    cuts = json.loads(gpt2.to_str())["pre_tokenizer"]
    spelled_out = {"type": "Sequence", "pretokenizers": [split, cuts | {"use_regex": False}]}
    settings = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    post = content["post_processor"]
    same = {
        "normalizer": content["normalizer"] is None,
        "pre_tokenizer": _text_of(content["pre_tokenizer"]) in (_text_of(cuts), _text_of(spelled_out)),
        "post_processor": post is None or post["type"] == "ByteLevel",  # which moves offsets only
        "model": not any(content["model"].get(name) for name in settings),
    }
    if parts := [name for name, alike in same.items() if not alike]:
        raise _unlike_gpt2(f"its {', '.join(parts)} differs, and vocabulary and merges cannot say so")


def _text_of(step: Any) -> str:
    """A step as text, the same for both values of `trim_offsets`: offsets change no id."""
    return json.dumps(step, sort_keys=True).replace('"trim_offsets": false', '"trim_offsets": true')


def _steps(pre_tokenizer: Any) -> set[str]:
    """The kinds of steps in which a tokenizer of the library cuts text."""
    if pre_tokenizer is None:
        return set()
    content = json.loads(pre_tokenizer.__getstate__())
    return {step["type"] for step in content.get("pretokenizers", [content])}


def _scalars(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which Python uses for bytes of a command line that are no UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unlike_gpt2(what: str) -> TokenizerError:
    return TokenizerError(f"not GPT-2's tokenizer: {what}", hint=_DO_WITHOUT)


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Turns an error of the tokenizers library into a `TokenizerError`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises Exception itself, and PanicException, which is none
        raise TokenizerError(
            f"{what}: {str(error)[:200]}", hint="download it again, or install a newer version of tokenizers"
        ) from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file's name before the message of a TokenizerError, unless it is there."""
    try:
        yield
    except TokenizerError as error:
        if error.message.startswith(str(path)):
            raise
        raise TokenizerError(f"{path}: {error.message}", hint=error.hint) from None


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens[:3])) + ", ..." * (len(tokens) > 3)
