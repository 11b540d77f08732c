"""What a name means: a path, the model inside the package, or a repository on the Hub."""

from pathlib import Path

import pytest

from gpt2_from_scratch import CheckpointError
from gpt2_from_scratch.checkpoint import hub, locate


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to be in, and no request that could leave it."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"asked the Hub for {arguments}")

    monkeypatch.setattr(hub, "fetch", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ckpt.pt").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("name", ["out/ckpy.pt", "ckpt.pt", "runs/model.safetensors", "out/ckpt", "model.gguf"])
def test_a_path_with_a_typo_is_a_missing_path(name: str, offline: Path) -> None:
    with pytest.raises(CheckpointError, match=f"^{name} does not exist"):
        locate(name)


def test_the_nearest_name_is_told(offline: Path) -> None:
    with pytest.raises(CheckpointError, match=r"did you mean out/ckpt\.pt\?"):
        locate("out/ckpy.pt")


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "owner/model-v1.5"])
def test_what_may_be_a_repository_is_asked_for(name: str, offline: Path) -> None:
    with pytest.raises(AssertionError, match="asked the Hub"):
        locate(name)


def test_tensorflows_checkpoints_are_called_by_what_their_files_share(offline: Path) -> None:
    (offline / "model-500.index").write_bytes(b"")
    assert locate("model-500").weights == Path("model-500.index")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("https://huggingface.co/openai-community/gpt2/resolve/main/model.safetensors", "openai-community/gpt2"),
        ("hf://openai-community/gpt2", "openai-community/gpt2"),
        ("file:///home/me/model.safetensors", "a file, a directory or a Hub id (owner/name)"),
    ],
)
def test_an_address_is_told_from_a_path(name: str, meant: str, offline: Path) -> None:
    with pytest.raises(CheckpointError, match="is an address") as caught:
        locate(name)
    assert caught.value.hint == f"give {meant}"


def test_an_empty_name_is_not_the_folder_that_somebody_stands_in(offline: Path) -> None:
    with pytest.raises(CheckpointError, match="name is empty"):
        locate("")


def test_a_link_to_nothing_is_called_that(offline: Path) -> None:
    Path("out/model.safetensors").symlink_to("/blobs/0123")
    for name in ("out/model.safetensors", "out"):
        with pytest.raises(
            CheckpointError, match=r"out/model\.safetensors is a link to /blobs/0123, which does not exist"
        ):
            locate(name)


def test_one_of_several_shards_is_not_the_weights(offline: Path) -> None:
    shards = [Path(f"model-0000{number}-of-00002.safetensors") for number in (1, 2)]
    for shard in shards:
        shard.write_bytes(b"")
    with pytest.raises(CheckpointError, match="by its name is one of several, and no index"):
        locate(".")
    Path("model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is one of several shards") as caught:
        locate(shards[1])
    assert caught.value.hint == "give their folder, ."
    assert locate(".").weights.name == "model.safetensors.index.json"
