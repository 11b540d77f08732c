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
