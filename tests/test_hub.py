"""The Hub, without the Hub: a server on this machine that answers as huggingface.co does.

`Huggingface_hub` does the talking, so what is tested is which files we ask for, that a second run needs
no network, and that each way it can fail is put into words.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import torch
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http as transport
from tokenizers import ByteLevelBPETokenizer

from gpt2_from_scratch import CheckpointError, GPTModel
from gpt2_from_scratch.checkpoint import hub, locate
from gpt2_from_scratch.checkpoint.safetensors import INDEX
from gpt2_from_scratch.converting import convert
from gpt2_from_scratch.loading import TINY
from gpt2_from_scratch.tokenizer import load_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by id, and what was asked of them."""

    endpoint: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository -> status, X-Error-Code
    asked: list[tuple[str, str]] = field(default_factory=list)  # method, file
    tokens: set[str | None] = field(default_factory=set)
    broken: bool = False  # sends half of each file and hangs up

    def fetched(self) -> list[str]:
        """Names of the files whose content was sent."""
        return [name for method, name in self.asked if method == "GET"]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.tokens.add(request.headers.get("Authorization"))
        path, resolve, rest = unquote(request.path).lstrip("/").partition("/resolve/")
        if not resolve:  # of the library's own accord, such as a list of the programs that it reports using it
            self.fail(request, 404, "")
            return
        revision, _, name = rest.partition("/")
        self.asked.append((request.command, name))
        if path in self.refuse:
            self.fail(request, *self.refuse[path])
        elif path not in self.repositories:
            self.fail(request, 404, "RepoNotFound")
        elif revision not in ("main", "v1", COMMIT):
            self.fail(request, 404, "RevisionNotFound")
        elif name not in self.repositories[path]:
            self.fail(request, 404, "EntryNotFound")
        else:
            self.send(request, self.repositories[path][name])

    def fail(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def send(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        request.send_response(200)
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content[: len(content) // 2] if self.broken else content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running server, which `huggingface_hub` takes for the Hub."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Says nothing: stderr belongs to progress bars."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.endpoint = f"http://127.0.0.1:{http.server_port}"
    point_at(served.endpoint, monkeypatch)
    yield served
    transport.close_session()
    http.shutdown()
    http.server_close()
    thread.join()


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `HF_ENDPOINT` does, which is read when `huggingface_hub` is imported."""
    transport.close_session()
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _: None))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def single(server: Hub, perturbed_checkpoint: Path) -> str:
    """A repository with more in it than anyone needs."""
    extras = ("README.md", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "vocab.json")
    server.repositories["someone/tiny"] = files(perturbed_checkpoint) | dict.fromkeys(extras, b"{}")
    return "someone/tiny"


@pytest.fixture
def sharded(server: Hub, perturbed_checkpoint: Path, tmp_path: Path) -> str:
    GPTModel.from_pretrained(perturbed_checkpoint).save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    server.repositories["someone/sharded"] = files(tmp_path / "shards") | {"README.md": b"#"}
    return "someone/sharded"


def same_weights(a: GPTModel, b: GPTModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------ what works


def test_only_the_needed_files_are_fetched(
    single: str, server: Hub, perturbed_checkpoint: Path, tmp_path: Path
) -> None:
    model = GPTModel.from_pretrained(single, cache_dir=tmp_path)
    assert same_weights(model, GPTModel.from_pretrained(perturbed_checkpoint))
    assert server.fetched() == ["config.json", "generation_config.json", "model.safetensors"]
    assert {name for _, name in server.asked} == {"config.json", "generation_config.json", "model.safetensors"}
    assert model.load_report is not None
    assert model.load_report.source == single


def test_the_config_lies_beside_the_weights(single: str, tmp_path: Path) -> None:
    located = locate(single, cache_dir=tmp_path)
    assert located.weights.parent == located.directory
    assert located.directory.name == COMMIT
    assert located.config == located.directory / "config.json"


def test_all_shards_are_fetched_and_nothing_else(
    sharded: str, server: Hub, perturbed_checkpoint: Path, tmp_path: Path
) -> None:
    model = GPTModel.from_pretrained(sharded, cache_dir=tmp_path / "cache")
    assert same_weights(model, GPTModel.from_pretrained(perturbed_checkpoint))
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert server.fetched() == ["config.json", "generation_config.json", INDEX, *shards]


@pytest.mark.parametrize("kind", ["single", "sharded"])
@pytest.mark.parametrize("offline", ["local_files_only", "unreachable"])
def test_a_second_run_needs_no_network(
    kind: str,
    offline: str,
    server: Hub,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = request.getfixturevalue(kind)
    first = GPTModel.from_pretrained(repository, cache_dir=tmp_path / "cache")
    server.asked.clear()
    if offline == "unreachable":
        point_at("http://127.0.0.1:9", monkeypatch)  # discard: nothing listens there
    second = GPTModel.from_pretrained(
        repository, cache_dir=tmp_path / "cache", local_files_only=offline == "local_files_only"
    )
    assert same_weights(first, second)
    assert not server.asked


def test_a_second_run_online_fetches_nothing_again(single: str, server: Hub, tmp_path: Path) -> None:
    for _ in range(2):
        GPTModel.from_pretrained(single, cache_dir=tmp_path)
    assert server.fetched() == ["config.json", "generation_config.json", "model.safetensors"]


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_revisions(revision: str | None, single: str, tmp_path: Path) -> None:
    assert locate(single, revision=revision, cache_dir=tmp_path).directory.name == COMMIT


def test_the_token_is_sent(single: str, server: Hub, tmp_path: Path) -> None:
    GPTModel.from_pretrained(single, cache_dir=tmp_path, token="hf_secret")
    assert server.tokens == {"Bearer hf_secret"}


def test_the_users_own_environment_decides_the_endpoint_and_the_cache(single: str, server: Hub, tmp_path: Path) -> None:
    """`HF_ENDPOINT` and `HF_HOME`, in a process of its own."""
    script = f"from gpt2_from_scratch.checkpoint import locate; print(locate({single!r}).weights)"
    environment = {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
        "PATH": "/usr/bin",
    }
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    weights = Path(ended.stdout.strip())
    assert weights.is_relative_to(tmp_path)
    assert weights.read_bytes() == server.repositories[single]["model.safetensors"]


def test_a_path_that_exists_goes_before_a_repository(
    single: str, server: Hub, perturbed_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(perturbed_checkpoint, tmp_path / single)
    monkeypatch.chdir(tmp_path)
    assert locate(single).directory == Path(single)
    assert not server.asked


def test_a_repository_without_a_config_is_located(server: Hub, perturbed_checkpoint: Path, tmp_path: Path) -> None:
    weights = {"model.safetensors": (perturbed_checkpoint / "model.safetensors").read_bytes()}
    server.repositories["someone/bare"] = weights
    located = locate("someone/bare", cache_dir=tmp_path)
    assert located.config is None
    assert located.weights.read_bytes() == weights["model.safetensors"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", True),
        ("openai-community/gpt2", True),
        ("a.b_c-1/d", True),
        ("./gpt2", False),
        ("../gpt2", False),
        ("/gpt2", False),
        ("a/b/c", False),
        ("a b", False),
        ("", False),
        ("gpt2/", False),
    ],
)
def test_what_can_be_a_repository(text: str, expected: bool) -> None:
    assert hub.is_repo_id(text) is expected


# ------------------------------------------------------------------------------------------------------- tokenizers


@pytest.fixture
def tiny(server: Hub) -> str:
    """The model inside the package, with its tokenizer, as a repository."""
    server.repositories["someone/stories"] = files(TINY)
    return "someone/stories"


def test_the_tokenizer_is_fetched_and_found_again_offline(tiny: str, server: Hub, tmp_path: Path) -> None:
    ids = load_tokenizer(TINY).encode("Once upon a time")
    assert load_tokenizer(tiny, cache_dir=tmp_path).encode("Once upon a time") == ids
    assert "model.safetensors" not in server.fetched()
    server.asked.clear()
    assert load_tokenizer(tiny, cache_dir=tmp_path, local_files_only=True).encode("Once upon a time") == ids
    assert not server.asked


def test_offline_a_tokenizer_that_nobody_looked_for_is_not_taken_for_gpt2s(
    tiny: str, server: Hub, tmp_path: Path
) -> None:
    """50,257 ids, weights in the cache, and no tokenizer: it may be that there is none, or that nobody fetched it."""
    config = json.loads(server.repositories[tiny]["config.json"]) | {"vocab_size": 50257}
    server.repositories[tiny] = {"config.json": json.dumps(config).encode()}
    hub.fetch(tiny, ["config.json"], cache_dir=tmp_path)
    gpt2s = ByteLevelBPETokenizer(str(TINY / "vocab.json"), str(TINY / "merges.txt")).to_str()
    server.repositories["openai-community/gpt2"] = {"tokenizer.json": gpt2s.encode()}
    with pytest.raises(CheckpointError, match=r"nor is it known .* \(tokenizer\.json, .*\n  hint: load it once"):
        load_tokenizer(tiny, cache_dir=tmp_path, local_files_only=True)
    assert "GPT-2's tokenizer is assumed" in load_tokenizer(tiny, cache_dir=tmp_path).assumed  # the Hub says: none
    server.asked.clear()
    assert load_tokenizer(tiny, cache_dir=tmp_path, local_files_only=True).assumed  # so the cache does
    assert not server.asked


def test_converting_takes_the_tokenizer_along(tiny: str, tmp_path: Path) -> None:
    ids = load_tokenizer(TINY).encode("Once upon a time")
    for to in ("openai", "gguf"):
        report = convert(tiny, tmp_path / to, to, cache_dir=tmp_path / "cache")
        assert "the tokenizer was left out" not in str(report)
        assert load_tokenizer(report.destination).encode("Once upon a time") == ids


def test_converting_offline_does_without_a_tokenizer_that_is_not_in_the_cache(tiny: str, tmp_path: Path) -> None:
    GPTModel.from_pretrained(tiny, cache_dir=tmp_path / "cache")
    report = convert(tiny, tmp_path / "out", "openai", cache_dir=tmp_path / "cache", local_files_only=True)
    assert "the tokenizer was left out: " in str(report) and "not in the local cache" in str(report)


# ----------------------------------------------------------------------------------------------------- what does not


def refused(source: str, cache: Path, *texts: str, **options: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        GPTModel.from_pretrained(source, cache_dir=cache, **options)
    error = caught.value
    missing = [text for text in texts if text not in str(error)]
    assert not missing, f"the error does not say {missing}: {error}"
    assert error.hint
    assert "\n" not in error.message


def test_a_repository_that_is_not_there(server: Hub, tmp_path: Path) -> None:
    refused(
        "someone/nothing", tmp_path, "'someone/nothing' is neither a path here nor a repository", "check the spelling"
    )


def test_a_revision_that_is_not_there(single: str, tmp_path: Path) -> None:
    refused(single, tmp_path, f"{single} has no revision 'v9'", revision="v9")


@pytest.mark.parametrize(
    ("status", "code", "texts"),
    [
        (403, "GatedRepo", ("someone/tiny is gated", "hf auth login")),
        (401, "RepoNotFound", ("neither a path here nor a repository", "HF_TOKEN")),
        (401, "", ("someone/tiny", "HF_TOKEN")),
        (403, "", ("someone/tiny", "403 Forbidden")),
    ],
)
def test_a_repository_that_is_not_open(
    status: int, code: str, texts: tuple[str, ...], single: str, server: Hub, tmp_path: Path
) -> None:
    server.refuse[single] = (status, code)
    refused(single, tmp_path, *texts)


def test_a_repository_without_weights_of_ours(server: Hub, tmp_path: Path) -> None:
    server.repositories["someone/dataset"] = {"config.json": b"{}", "data.csv": b"1"}
    refused("someone/dataset", tmp_path, "someone/dataset has none of model.safetensors", "model repository?")


def test_a_shard_that_is_not_there(sharded: str, server: Hub, tmp_path: Path) -> None:
    del server.repositories[sharded]["model-00002-of-00003.safetensors"]
    refused(sharded, tmp_path / "cache", "names model-00002-of-00003.safetensors, which is not there", "fetch")


def test_an_index_that_points_elsewhere_fetches_nothing(server: Hub, sharded: str, tmp_path: Path) -> None:
    server.repositories[sharded][INDEX] = b'{"weight_map": {"wte.weight": "../../secrets"}}'
    refused(sharded, tmp_path / "cache", "'../../secrets', which is not a plain file name")
    assert server.fetched() == ["config.json", "generation_config.json", INDEX]


def test_offline_without_a_copy(server: Hub, tmp_path: Path) -> None:
    refused(
        "someone/tiny",
        tmp_path,
        "not in the local cache",
        "fetch it once without local_files_only",
        local_files_only=True,
    )
    assert not server.asked


def test_offline_with_half_a_copy(single: str, server: Hub, tmp_path: Path) -> None:
    hub.fetch(single, ["config.json"], cache_dir=tmp_path)
    refused(single, tmp_path, "not in the local cache", "local_files_only", local_files_only=True)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at once: `huggingface_hub` by itself asks six times, with pauses of 23 seconds between."""
    point_at("http://127.0.0.1:9", monkeypatch)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    refused("someone/tiny", tmp_path, "not in the local cache", "Connection refused", "HF_ENDPOINT")
    assert not pauses


def test_a_download_that_breaks_off(single: str, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.broken = True
    refused(single, tmp_path, f"{single}: cannot fetch config.json: ", "check")
    server.broken = False
    assert GPTModel.from_pretrained(single, cache_dir=tmp_path)  # nothing half-written was kept


def test_a_server_that_is_not_a_hub(single: str, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = server.send

    def bare(request: BaseHTTPRequestHandler, content: bytes) -> None:
        monkeypatch.setattr(request, "send_header", lambda *_: None)
        send(request, content)

    monkeypatch.setattr(server, "send", bare)
    refused(single, tmp_path, single, "missing the 'X-Repo-Commit' header", "HF_ENDPOINT")


def test_a_name_that_no_repository_can_have(server: Hub, tmp_path: Path) -> None:
    refused("some..one/tiny", tmp_path, "some..one/tiny")
    assert not server.asked
