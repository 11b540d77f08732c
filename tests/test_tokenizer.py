"""The tokenizer against Hugging Face's `tokenizers`, which is its own implementation of everything tested here."""

import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from gpt2_from_scratch import tokenizer as module
from gpt2_from_scratch.checkpoint import hub
from gpt2_from_scratch.errors import CheckpointError, ConfigError, TokenizerError
from gpt2_from_scratch.tokenizer import (
    BYTE_SYMBOLS,
    GPT2_SPLIT,
    StreamDecoder,
    load_tokenizer,
    tokenizer_at,
    tokenizer_files,
)

EOT = "<|endoftext|>"
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; they've met.",
    "hello hello world    hello\n\n\nworld  \t they'll say: it's 2019, 2020 or 12345!",
    "naïve façade, Ωmega и Привет, 日本語のテキスト, emoji 🎉🎉 👩‍👩‍👧 and more 🎉",
] * 4

# Text that exercises GPT-2's split: contractions (and what only looks like one), white space of every kind and in
# runs, digits, letters with marks, joined emoji, then anything Unicode has except lone surrogates.
CONTRACTIONS = ["'s", "'S", "'ll", "n't", "\u2019t", " the", "The", "hello"]
SPACES = [" ", "   ", "\n", "\r\n", "\t", "\u00a0", "\u3000"]
SYMBOLS = ["0", "12", "½", "²", "é", "e\u0301", "日本", "🎉", "👩\u200d👩\u200d👧", "!!", "...", "\x00", "\ufffd", "<|"]
fragments = st.sampled_from(CONTRACTIONS + SPACES + SYMBOLS)
texts = st.lists(st.one_of(fragments, st.text(max_size=6)), max_size=12).map("".join)


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def write_pair(folder: Path, content: dict[str, Any], names: tuple[str, str], newline: str = "\n") -> Path:
    lines = ["#version: 0.2", *map(" ".join, content["model"]["merges"]), ""]
    (folder / names[0]).write_text(json.dumps(content["model"]["vocab"]))
    (folder / names[1]).write_text(newline.join(lines), newline="")
    return folder


def by_hand(merges: Iterable[tuple[str, str]], *more: str) -> dict[str, Any]:
    """A tokenizer.json: 256 bytes, the merges in order, then further tokens."""
    merges = list(merges)
    tokens = dict.fromkeys([*BYTE_SYMBOLS, *(a + b for a, b in merges), *more])
    return {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    }


@pytest.fixture(scope="module")
def oracle() -> Tokenizer:
    """A trained tokenizer; unlike GPT-2's, its special token comes first, so no id is its merge's rank + 256."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def trained(oracle: Tokenizer) -> dict[str, Any]:
    content = json.loads(oracle.to_str())
    assert len(content["model"]["merges"]) > 100  # else there would be little to test below
    return content


@pytest.fixture(scope="module")
def encoding(trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tiktoken.Encoding:
    return load_tokenizer(write(tmp_path_factory.mktemp("trained"), trained))


# ---- What it is compared with ----


@given(text=texts)
def test_ids_are_those_of_tokenizers(text: str, encoding: tiktoken.Encoding, oracle: Tokenizer) -> None:
    assert encoding.encode_ordinary(text) == oracle.encode(text).ids


@given(text=texts)
def test_bytes_survive_the_round_trip(text: str, encoding: tiktoken.Encoding) -> None:
    assert encoding.decode_bytes(encoding.encode_ordinary(text)) == text.encode()


@given(ids=st.lists(st.integers(1, 300)))
def test_any_ids_decode_as_in_tokenizers(ids: list[int], encoding: tiktoken.Encoding, oracle: Tokenizer) -> None:
    assert encoding.decode(ids) == oracle.decode(ids)


def test_every_id_has_its_own_bytes(encoding: tiktoken.Encoding, trained: dict[str, Any]) -> None:
    for token_id in trained["model"]["vocab"].values():
        assert encoding.encode_single_token(encoding.decode_single_token_bytes(token_id)) == token_id
    assert {encoding.decode_single_token_bytes(i) for i in range(1, 257)} == {bytes([b]) for b in range(256)}


def test_a_long_piece_is_merged_like_a_short_one(encoding: tiktoken.Encoding, oracle: Tokenizer) -> None:
    """Beyond some hundred bytes tiktoken changes to another algorithm."""
    for text in ("hello" * 400, "thethen" * 300, "🎉" * 300, " " * 2000 + "x"):
        assert encoding.encode_ordinary(text) == oracle.encode(text).ids


@st.composite
def merges_of_ab(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Any merges of any earlier tokens into new ones: most could not have come from training."""
    tokens, merges = ["a", "b"], []
    for _ in range(draw(st.integers(1, 6))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if left + right not in tokens:
            tokens.append(left + right)
            merges.append((left, right))
    return merges


ALL_AB = ["".join(letters) for length in range(1, 9) for letters in product("ab", repeat=length)]


def test_merges_that_pass_give_the_ids_of_tokenizers(tmp_path: Path) -> None:
    """The claim of `_check_reachable`, for every text of up to 8 letters."""
    passed = refused = 0

    @settings(max_examples=120, derandomize=True)
    @given(merges=merges_of_ab())
    def check(merges: list[tuple[str, str]]) -> None:
        nonlocal passed, refused
        content = by_hand(merges)
        try:
            encoding = tokenizer_at(write(tmp_path, content))
        except TokenizerError:
            refused += 1
            return
        passed += 1
        oracle = Tokenizer(models.BPE(vocab=content["model"]["vocab"], merges=merges))
        assert [encoding.encode(text) for text in ALL_AB] == [ids.ids for ids in oracle.encode_batch(ALL_AB)]

    check()
    assert passed > 50  # else nothing was compared
    assert refused > 10  # else nothing depended on the check


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        # b + c comes first, so a + b and ab + c can never meet in "abc"; tiktoken would join a + bc to "abc".
        ([("b", "c"), ("a", "b"), ("ab", "c")], r"merge 3 \('ab' \+ 'c'\) never happens: .* \['a', 'bc'\]"),
        # The first pair from the left wins: "aaa" is aa + a.
        ([("a", "a"), ("a", "aa")], r"merge 2 \('a' \+ 'aa'\) never happens: .* \['aa', 'a'\]"),
        # A half that is made only later.
        ([("ab", "c"), ("a", "b")], r"merge 1 \('ab' \+ 'c'\) never happens: .* \['a', 'b', 'c'\]"),
        # The same token in two ways has one id, hence in tiktoken one priority.
        ([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")], r"merge 4 .* makes id 258, after one that makes id 258"),
        ([("日", "本")], r"merge 1 \('日' \+ '本'\) has characters that are not byte symbols"),
    ],
)
def test_merges_that_tiktoken_would_read_otherwise_are_refused(
    merges: list[tuple[str, str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(write(tmp_path, by_hand(merges)))


def test_ids_must_rise_in_the_order_of_the_merges(tmp_path: Path) -> None:
    content = by_hand([("a", "b"), ("b", "c")])
    content["model"]["vocab"] |= {"ab": 257, "bc": 256}
    with pytest.raises(TokenizerError, match=r"merge 2 \('b' \+ 'c'\) makes id 256, after one that makes id 257;"):
        load_tokenizer(write(tmp_path, content))


# ---- Forms ----


@pytest.mark.parametrize(
    "form",
    ["tokenizer.json", "merges as strings", "split written out", "vocab.json", "encoder.json", "crlf", "no version"],
)
def test_every_form_is_the_same_tokenizer(
    form: str, trained: dict[str, Any], encoding: tiktoken.Encoding, tmp_path: Path
) -> None:
    content = json.loads(json.dumps(trained))
    match form:
        case "tokenizer.json":
            write(tmp_path, content)
        case "merges as strings":
            content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
            del content["model"]["type"]  # as in GPT-2's own file
            write(tmp_path, content)
        case "split written out":
            split = {"type": "Split", "pattern": {"Regex": GPT2_SPLIT}, "behavior": "Isolated", "invert": False}
            content["pre_tokenizer"] |= {"use_regex": False}
            content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
            write(tmp_path, content)
            text = CORPUS[1]
            assert Tokenizer.from_str(json.dumps(content)).encode(text).ids == encoding.encode(text)
        case "vocab.json":
            write_pair(tmp_path, content, ("vocab.json", "merges.txt"))
        case "encoder.json":
            write_pair(tmp_path, content, ("encoder.json", "vocab.bpe"))
        case "crlf":
            write_pair(tmp_path, content, ("encoder.json", "vocab.bpe"), newline="\r\n")
        case "no version":
            write_pair(tmp_path, content, ("vocab.json", "merges.txt"))
            lines = (tmp_path / "merges.txt").read_text().split("\n")
            (tmp_path / "merges.txt").write_text("\n".join(lines[1:-1]))
    loaded = load_tokenizer(str(tmp_path))
    assert (loaded._mergeable_ranks, loaded._special_tokens, loaded._pat_str) == (
        encoding._mergeable_ranks,
        encoding._special_tokens,
        encoding._pat_str,
    )
    assert loaded.name == str(tokenizer_files(tmp_path)[0])


def test_a_file_stands_for_its_folder(trained: dict[str, Any], tmp_path: Path) -> None:
    weights = write(tmp_path, trained) / "model.safetensors"
    weights.touch()
    assert load_tokenizer(weights).name == str(tmp_path / "tokenizer.json")


def test_what_transformers_reads_first_is_read_first(trained: dict[str, Any], tmp_path: Path) -> None:
    write_pair(tmp_path, trained, ("encoder.json", "vocab.bpe"))
    write_pair(tmp_path, trained, ("vocab.json", "merges.txt"))
    (tmp_path / "added_tokens.json").write_text("{}")
    assert [path.name for path in tokenizer_files(tmp_path)] == ["vocab.json", "merges.txt", "added_tokens.json"]
    write(tmp_path, trained)
    assert [path.name for path in tokenizer_files(tmp_path)] == ["tokenizer.json", "added_tokens.json"]


# ---- Special tokens ----


def test_added_tokens_are_recognised_as_in_transformers(oracle: Tokenizer, tmp_path: Path) -> None:
    grown = Tokenizer.from_str(oracle.to_str())
    grown.add_special_tokens([AddedToken("<pad>")])
    grown.add_tokens([AddedToken("<émoji 🎉>"), AddedToken("<extra_1>")])
    encoding = load_tokenizer(write(tmp_path, json.loads(grown.to_str())))
    text = f"hello<émoji 🎉> world{EOT}{EOT}<pad><extra_1><extra_2>"
    ids = encoding.encode(text, allowed_special="all")
    assert ids == grown.encode(text).ids
    assert encoding.decode(ids) == text
    assert encoding.eot_token == 0
    assert encoding.encode_ordinary(EOT) != [0]
    with pytest.raises(ValueError, match="disallowed special token"):
        encoding.encode(text)


def test_added_tokens_come_from_every_file(trained: dict[str, Any], tmp_path: Path) -> None:
    write_pair(tmp_path, trained, ("vocab.json", "merges.txt"))
    decoder = {"0": {"content": EOT, "special": True}, "900": {"content": "<pad>", "lstrip": False}}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"add_prefix_space": False, "added_tokens_decoder": decoder})
    )
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": 900, "plain word": 901}))
    assert load_tokenizer(tmp_path)._special_tokens == {EOT: 0, "<pad>": 900, "plain word": 901}


def test_undeclared_tokens_in_brackets_are_special(tmp_path: Path) -> None:
    content = by_hand([("a", "b")], "<s>", "[PAD]", EOT)
    assert load_tokenizer(write(tmp_path, content))._special_tokens == {"<s>": 257, "[PAD]": 258, EOT: 259}


def test_merges_that_were_cut_short_are_noticed(trained: dict[str, Any], tmp_path: Path) -> None:
    content = json.loads(json.dumps(trained))
    total, merges = len(content["model"]["vocab"]), len(content["model"]["merges"])
    del content["model"]["merges"][-20:]
    with pytest.raises(TokenizerError, match=rf"20 of {total} tokens are made by none of the {merges - 20} merges: '"):
        load_tokenizer(write_pair(tmp_path, content, ("vocab.json", "merges.txt")))


# ---- Refusals ----


def changed(path: str, value: Any) -> dict[str, Any]:
    """A small valid tokenizer.json with one value replaced."""
    content = by_hand([("a", "b"), ("ab", "c")], EOT)
    *folders, name = path.split(".")
    place = content
    for folder in folders:
        place = place[folder]
    place[name] = value
    return content


def added(**fields: Any) -> dict[str, Any]:
    return changed("added_tokens", [{"content": "<x>", "id": 300, **fields}])


def pre_tokenizer(*steps: dict[str, Any]) -> dict[str, Any]:
    return changed("pre_tokenizer", {"type": "Sequence", "pretokenizers": list(steps)})


def test_the_tokenizer_that_the_refusals_change_is_accepted(tmp_path: Path) -> None:
    assert load_tokenizer(write(tmp_path, changed("version", "1.0"))).encode("abcab") == [257, 256]


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
REFUSED = {
    "Unigram": (changed("model", {"type": "Unigram", "vocab": []}), "type is 'Unigram', not 'BPE'"),
    "no model": (changed("model", None), "the model is None, not a JSON object"),
    "untyped": (changed("model", {"vocab": {}}), "type is None, not 'BPE'"),
    "vocab": (changed("model.vocab", [["a", 0]]), "the vocabulary is .*, not a JSON object"),
    "merges": (changed("model.merges", None), "the list of merges is None, not a JSON array"),
    "merge of one": (changed("model.merges", ["a b", "ab"]), "merge 2 is 'ab', not two tokens"),
    "merge of three": (changed("model.merges", [["a", "b", "c"]]), "merge 1 is .*, not two tokens"),
    "merge of numbers": (changed("model.merges", [[1, 2]]), r"merge 1 is \[1, 2\], not two tokens"),
    "merge of nothing": (changed("model.merges", ["a "]), "merge 1 is 'a ', not two tokens"),
    "merge is a number": (changed("model.merges", [7]), "merge 1 is 7, not two tokens"),
    "merge is a page": (changed("model.merges", ["x" * 9999]), "merge 1 is 'x{59}, not two tokens"),
    "dropout": (changed("model.dropout", 0.1), "the model sets dropout: 0.1"),
    "prefix": (changed("model.continuing_subword_prefix", "##"), "sets continuing_subword_prefix: '##'"),
    "suffix": (changed("model.end_of_word_suffix", "</w>"), "sets end_of_word_suffix: '</w>'"),
    "ignore_merges": (changed("model.ignore_merges", True), "sets ignore_merges: True"),
    "normalizer": (changed("normalizer", {"type": "NFC"}), "changed by a normalizer, NFC"),
    "Metaspace": (changed("pre_tokenizer", {"type": "Metaspace"}), "pre-tokenizer is Metaspace, not ByteLevel"),
    "no pre-tokenizer": (changed("pre_tokenizer", None), "pre-tokenizer is None, not ByteLevel"),
    "pre-tokenizer is a string": (changed("pre_tokenizer", "ByteLevel"), "pre-tokenizer is 'ByteLevel', not ByteLevel"),
    "empty sequence": (pre_tokenizer(), "pre-tokenizer is empty, not ByteLevel"),
    "digits": (
        pre_tokenizer({"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
        r"pre-tokenizer is Digits \+ ByteLevel, not ByteLevel",
    ),
    "another split": (
        pre_tokenizer(
            {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False}, BYTE_LEVEL
        ),
        r"text is cut by .*\\d.*, not at 's\|'t",
    ),
    "split twice": (pre_tokenizer({"type": "Split"}, BYTE_LEVEL | {"use_regex": True}), "text is cut twice"),
    "no split": (changed("pre_tokenizer.use_regex", False), "text is not cut at all"),
    "prefix space": (changed("pre_tokenizer.add_prefix_space", True), "add_prefix_space: true, a space before"),
    "template": (
        changed("post_processor", {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]}),
        "post-processor adds tokens to every text: .*<s>",
    ),
    "roberta": (changed("post_processor", {"type": "RobertaProcessing"}), "post-processor is RobertaProcessing"),
    "added twice": (changed("added_tokens", [{"content": "<x>", "id": i} for i in (300, 301)]), "two ids, 300 and 301"),
    "added elsewhere": (added(content=EOT), r"'<\|endoftext\|>' has two ids, 258 and \(added\) 300"),
    "added over another": (added(id=258), r"id 258 has two tokens, '<\|endoftext\|>' and '<x>'"),
    "added without text": (added(content=""), "added token 300 has no text"),
    "added as a string": (changed("added_tokens", ["<x>"]), "an added token is <x>, not a JSON object"),
    "lstrip": (added(lstrip=True), "added token '<x>' sets lstrip"),
    "rstrip": (added(rstrip=True), "added token '<x>' sets rstrip"),
    "single_word": (added(single_word=True), "added token '<x>' sets single_word"),
    "one begins another": (
        changed("added_tokens", [{"content": "<x", "id": 300}, {"content": "<x>", "id": 301}]),
        "special token '<x>' begins with another one, '<x'",
    ),
    "text for an id": (changed("model.vocab.abc", "257"), "token 'abc' has '257' for an id"),
    "true for an id": (changed("model.vocab.abc", True), "token 'abc' has True for an id"),
    "negative id": (changed("model.vocab.abc", -1), "token 'abc' has -1 for an id"),
    "33-bit id": (changed("model.vocab.abc", 2**32), "token 'abc' has 4294967296 for an id"),
    "same id": (changed("model.vocab.abc", 256), "id 256 has two tokens, 'ab' and 'abc'"),
    "not in vocab": (changed("model.merges", ["a b", "b c"]), r"merge 2 \('b' \+ 'c'\) makes a token that is not in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(write(tmp_path, content))
    assert caught.value.message.startswith(str(tmp_path))


def test_missing_bytes_are_refused(tmp_path: Path) -> None:
    content = by_hand([])
    for symbol in "ĀĠaz":
        del content["model"]["vocab"][symbol]
    with pytest.raises(TokenizerError, match=r"4 of the 256 byte symbols are missing, 'a', 'z', 'Ā', \.\.\.\n"):
        load_tokenizer(write(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": ', r"not JSON: Expecting value.*; it begins with '\{\"model\": '"),
        ("version https://git-lfs.github.com/spec/v1\n", "not JSON: .* begins with 'version https://git-lfs"),
        ("<!DOCTYPE html>", "not JSON: .*<!DOCTYPE html>"),
        ("[" * 200_000, "not JSON: .*recursion"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON: .*4300 digits"),
        ('{"model": {"vocab": {"a": 0, "b": 1, "a": 2}}}', "key 'a' appears twice"),
        ("[]", r"the content is \[\], not a JSON object"),
        ("\udcff", "not text: .*invalid start byte"),
    ],
)
def test_damaged_files_are_called_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.message.startswith(f"{path}: ")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate((1 << 26) + 1)  # sparse
    with pytest.raises(TokenizerError, match="67,108,865 bytes; a tokenizer file has at most 67,108,864"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"add_prefix_space": True}, "not GPT-2's tokenizer: add_prefix_space is true"),
        ({"add_bos_token": True}, "not GPT-2's tokenizer: add_bos_token is true"),
        ({"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder has 'x' for a token id"),
        ({"added_tokens_decoder": {"9": "x"}}, "added token 9 is x, not a JSON object"),
        ({"added_tokens_decoder": []}, None),
    ],
)
def test_settings_beside_the_vocabulary_count(
    config: dict[str, Any], message: str | None, trained: dict[str, Any], tmp_path: Path
) -> None:
    write_pair(tmp_path, trained, ("vocab.json", "merges.txt"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if message is None:
        load_tokenizer(tmp_path)
        return
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer_config.json") in str(caught.value)


def test_merges_are_named_by_their_file(tmp_path: Path) -> None:
    write_pair(tmp_path, by_hand([("a", "b")]), ("vocab.json", "merges.txt"))
    with (tmp_path / "merges.txt").open("a") as file:
        file.write("a b c\n")
    with pytest.raises(TokenizerError, match=r"merges\.txt: merge 2 is 'a b c', not two tokens"):
        load_tokenizer(tmp_path)


# ---- The model's vocabulary, and checkpoints without a tokenizer ----


@pytest.mark.parametrize(("file", "field"), [("config.json", "vocab_size"), ("hparams.json", "n_vocab")])
def test_ids_must_have_rows_in_the_model(file: str, field: str, trained: dict[str, Any], tmp_path: Path) -> None:
    size = len(trained["model"]["vocab"])
    write(tmp_path, trained)
    message = rf"2 ids are outside the model's {size - 2} rows, first {size - 2} \('"
    assert tokenizer_at(tmp_path, size).n_vocab == size
    with pytest.raises(TokenizerError, match=message):
        tokenizer_at(tmp_path, size - 2)
    (tmp_path / file).write_text(json.dumps({field: size - 2}))
    assert tokenizer_at(tmp_path, size).n_vocab == size  # what the caller says goes before the file
    with pytest.raises(TokenizerError, match=message):
        tokenizer_at(tmp_path)


def test_a_damaged_configuration_is_an_error(trained: dict[str, Any], tmp_path: Path) -> None:
    (write(tmp_path, trained) / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not a readable JSON file"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("vocab_size", [50257, 50304])
def test_without_files_gpt2_is_tiktokens(vocab_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: f"tiktoken's {name}")
    (tmp_path / "ckpt.pt").touch()
    assert load_tokenizer(tmp_path / "ckpt.pt", vocab_size=vocab_size) == "tiktoken's gpt2"
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": vocab_size}))
    assert load_tokenizer(tmp_path) == "tiktoken's gpt2"


def test_without_files_and_network_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> tiktoken.Encoding:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(
        TokenizerError, match=r"tiktoken cannot provide GPT-2's: no route to host\n.*TIKTOKEN_CACHE_DIR"
    ):
        load_tokenizer(tmp_path, vocab_size=50257)


@pytest.mark.parametrize(
    ("files", "vocab_size", "message"),
    [
        ([], None, "has no tokenizer files\n  hint: expected tokenizer.json, or vocab.json with merges.txt, or enc"),
        ([], 27, r"has no tokenizer files, and 27 ids are not GPT-2's 50257 \(50304, padded\)"),
        (["vocab.json"], 50257, "has vocab.json, not a whole tokenizer"),
        (["vocab.json", "vocab.bpe"], 50257, "has vocab.json, vocab.bpe, not a whole tokenizer"),
        (["tokenizer_config.json"], 50257, "has tokenizer_config.json, not a whole tokenizer"),
        (["spiece.model"], 50257, "has spiece.model: sentencepiece, not GPT-2's byte-level BPE"),
        (["ja.model", "en.model"], 50257, "has en.model, ja.model: sentencepiece"),
    ],
)
def test_gpt2_does_not_take_another_tokenizers_place(
    files: list[str], vocab_size: int | None, message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path, vocab_size=vocab_size)


@pytest.mark.parametrize("source", ["./nowhere", "a/b/c", "/nowhere/model.safetensors", Path("nowhere")])
def test_a_path_that_is_not_there_is_no_hub_id(source: str | Path) -> None:
    with pytest.raises(TokenizerError, match=r"does not exist\n  hint: give a directory"):
        load_tokenizer(source)


def test_a_hub_id_is_fetched(trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(repo_id: str, names: Iterable[str], **options: Any) -> dict[str, Path]:
        asked.update(options, repo_id=repo_id, names=tuple(names))
        return {path.name: path for path in tmp_path.iterdir()}

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setattr(hub, "unknown", lambda *_, **__: [])
    with pytest.raises(TokenizerError, match=r"^owner/name has no tokenizer files"):
        load_tokenizer("owner/name")
    write(tmp_path, trained)
    options = {"revision": "v2", "token": "t", "cache_dir": tmp_path, "local_files_only": True}
    assert load_tokenizer("owner/name", **options).eot_token == 0
    assert not {"model.safetensors", "pytorch_model.bin"} & set(asked.pop("names"))
    assert asked == {"repo_id": "owner/name", **options}


# ---- Inside a GGUF file, written by llama.cpp's own package ----


def write_gguf(path: Path, content: dict[str, Any], *, unused: int = 0, **changes: Any) -> Path:
    """The tokenizer of a tokenizer.json, its added tokens as control tokens, then ids without a token."""
    added = {token["id"]: token["content"] for token in content["added_tokens"]}
    tokens = {token_id: token for token, token_id in content["model"]["vocab"].items()} | added
    count = max(tokens) + 1 + unused
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    fields = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [tokens.get(token_id, f"[PAD{token_id}]") for token_id in range(count)],
        "token_type": [3 if token_id in added else 1 if token_id in tokens else 5 for token_id in range(count)],
        "merges": merges,
    } | changes
    writer = gguf.GGUFWriter(path, "gpt2")
    for name, value in fields.items():
        add = writer.add_string if isinstance(value, str) else writer.add_array
        if value is not None:
            add(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_the_tokenizer_inside_a_gguf_file(trained: dict[str, Any], encoding: tiktoken.Encoding, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", trained, unused=12)
    text = "".join(CORPUS) + EOT
    ids = encoding.encode(text, allowed_special="all")
    for place in (path, tmp_path):
        found = load_tokenizer(place)
        assert found.encode(text, allowed_special="all") == ids and found.decode(ids) == text
        assert found.name == str(path) and found.special_tokens_set == {EOT}
        assert found.max_token_value == encoding.max_token_value, "an id that fills the embedding has no token"
    (tmp_path / "config.json").write_text('{"vocab_size": 7}')  # of another model: the file has its own rows
    assert load_tokenizer(path).encode(text, allowed_special="all") == ids
    with pytest.raises(TokenizerError, match="ids are outside the model's 7 rows"):
        load_tokenizer(path, vocab_size=7)


def test_a_gguf_files_own_tokenizer_goes_before_its_neighbours(trained: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, by_hand([]))
    assert load_tokenizer(write_gguf(tmp_path / "model.gguf", trained)).name == str(tmp_path / "model.gguf")
    assert load_tokenizer(tmp_path).name == str(tmp_path / "tokenizer.json")
    bare = write_gguf(tmp_path / "bare.gguf", trained, model="none", tokens=None, merges=None)
    assert load_tokenizer(bare).name == str(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="has no tokenizer files"):  # one of two, and nothing says which
        load_tokenizer(tmp_path)


GGUF_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sentencepiece": ({"model": "llama"}, "holds a tokenizer of the kind 'llama'"),
    "another split": (
        {"pre": "qwen2"},
        "cuts text as 'qwen2'; GPT-2's is gpt2, and gpt-2\n  hint: tokenize with",
    ),
    "no merges": ({"merges": None}, "without tokens or without merges"),
    "no tokens": ({"tokens": None}, "without tokens or without merges"),
    "tokens are numbers": ({"tokens": [1, 2]}, "without tokens or without merges"),
    "a type too few": ({"token_type": [1, 1]}, "does not give each of its tokens a type"),
    "types are texts": ({"token_type": ["1"]}, "does not give each of its tokens a type"),
    "twice": ({"tokens": ["a", "a"], "token_type": None}, "two ids have the same token"),
    "few bytes": ({"tokens": ["a", "b"], "token_type": None}, "254 of the 256 byte symbols are missing"),
    "merges are words": ({"merges": ["ab"]}, "merge 1 is 'ab', not two tokens"),
    "merges of others": ({"merges": ["a b", "q q"]}, "makes a token that is not in the vocabulary"),
}


@pytest.mark.parametrize("case", GGUF_REFUSED)
def test_a_gguf_files_tokenizer_is_refused_by_name(case: str, trained: dict[str, Any], tmp_path: Path) -> None:
    changes, message = GGUF_REFUSED[case]
    path = write_gguf(tmp_path / "model.gguf", trained, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(path)
    assert caught.value.message.startswith(str(path))


def test_a_gguf_file_from_before_types_and_splits_had_names(
    trained: dict[str, Any], encoding: tiktoken.Encoding, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", trained, pre=None, token_type=None)
    assert load_tokenizer(path).encode(CORPUS[0]) == encoding.encode(CORPUS[0])


# ---- Streaming ----


@given(ids=st.lists(st.integers(0, 300)))
def test_the_stream_is_the_text_whatever_the_bytes(ids: list[int], encoding: tiktoken.Encoding) -> None:
    stream = StreamDecoder(encoding)
    pieces = [stream.feed(token_id) for token_id in ids]
    assert "".join(pieces) + stream.flush() == encoding.decode(ids)
    assert stream.flush() == ""


@given(text=texts.filter(lambda text: "\ufffd" not in text))
def test_the_stream_never_shows_half_a_character(text: str, encoding: tiktoken.Encoding) -> None:
    stream = StreamDecoder(encoding)
    shown, fed = "", b""
    for token_id in encoding.encode_ordinary(text):
        shown += stream.feed(token_id)
        fed += encoding.decode_single_token_bytes(token_id)
        assert shown == fed.decode(errors="ignore")  # every whole character, at once
    assert stream.flush() == ""
    assert shown == text


def test_what_never_becomes_a_character_is_shown_at_the_end(encoding: tiktoken.Encoding) -> None:
    stream = StreamDecoder(encoding)
    half = encoding.encode_single_token("é".encode()[:1])
    assert (stream.feed(half), stream.flush()) == ("", "\ufffd")
    assert stream.feed(encoding.encode_single_token(b"!")) == "!"  # as new


@pytest.mark.parametrize("token_id", [50300, -1, 2**40])
def test_an_id_without_a_token_is_named(token_id: int, encoding: tiktoken.Encoding) -> None:
    with pytest.raises(
        TokenizerError, match=rf"has no token with id {token_id}; its ids end at {encoding.n_vocab - 1}"
    ):
        StreamDecoder(encoding).feed(token_id)


# ---- GPT-2's own files ----


@pytest.fixture(scope="module")
def gpt2_folder(shared_checkpoints: Path) -> Path:
    return shared_checkpoints / "gpt2-tokenizer"


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> tiktoken.Encoding:
    return load_tokenizer(gpt2_folder)


@pytest.fixture(scope="module")
def gpt2_oracle(gpt2_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(gpt2_folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        (EOT, [50256]),
        # Published with the logits of other people's GPT-2s, so typed in by hand once:
        ("Hello world ", [15496, 995, 220]),
        ("Ondřej Čertík was born in", [46, 358, 129, 247, 68, 73, 34754, 234, 861, 8836, 74, 373, 4642, 287]),
    ],
)
def test_published_ids(text: str, ids: list[int], gpt2: tiktoken.Encoding) -> None:
    assert gpt2.encode(text, allowed_special="all") == ids
    assert gpt2.decode(ids) == text


@settings(max_examples=200)
@given(text=texts)
def test_gpt2_ids_are_those_of_tokenizers(text: str, gpt2: tiktoken.Encoding, gpt2_oracle: Tokenizer) -> None:
    ids = gpt2.encode_ordinary(text)
    assert ids == gpt2_oracle.encode(text).ids
    assert gpt2.decode_bytes(ids) == text.encode()


def test_every_gpt2_token_is_its_own_encoding(gpt2: tiktoken.Encoding, gpt2_oracle: Tokenizer) -> None:
    """Each token as a text of its own, and each beside its neighbour: all merges are used, and many pairs."""
    tokens = [gpt2.decode([i]) for i in range(50256)]
    texts = [token for token in tokens if "\ufffd" not in token]
    texts += [a + b for a, b in zip(texts[::5], texts[1::5], strict=False)]
    expected = [encoded.ids for encoded in gpt2_oracle.encode_batch(texts)]
    assert [gpt2.encode_ordinary(text) for text in texts] == expected


def test_gpt2_merges_would_pass_without_the_digest(gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merges = module._read_merges(gpt2_folder / "vocab.bpe")
    assert len(merges) == 50_000
    module._check_reachable(merges)
    monkeypatch.setattr(module, "_check_reachable", lambda merges: pytest.fail("the digest does not match"))
    load_tokenizer(gpt2_folder)


def test_openais_files_with_either_line_end(
    gpt2: tiktoken.Encoding, gpt2_folder: Path, shared_checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "encoder.json").write_bytes((gpt2_folder / "encoder.json").read_bytes())
    for merges in (gpt2_folder / "vocab.bpe", shared_checkpoints / "negative" / "vocab.bpe.crlf"):
        (tmp_path / "vocab.bpe").write_bytes(merges.read_bytes())
        encoding = load_tokenizer(tmp_path, vocab_size=50257)
        assert encoding._mergeable_ranks == gpt2._mergeable_ranks
        assert encoding._special_tokens == gpt2._special_tokens == {EOT: 50256}
