"""What several test files share: the perturbed model, in memory and as files, and the folder of real checkpoints.

transformers takes seconds to import, so only the fixtures that need it import it. One thread: the models are so small
that several only wait for each other, ten times as long where the cores are busy. Whoever has more cores starts more
processes (`pytest -n`), which share nothing: what is built once per session is built once in each of them.
"""

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

    from tests.remembering import Remembering

# What is imported and collected stays to the end. The garbage collector would walk it again and again, which took an
# eighth of the time.
gc.disable()

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which no test has done yet

# A busy machine is slow at drawing examples, too, and that is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # tests make many objects and few circles of them
    gc.enable()


@pytest.fixture(scope="session")
def shared_checkpoints() -> Path:
    """The folder of real checkpoints: ``$GPT2_CHECKPOINTS``, or ``shared/checkpoints`` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "checkpoints"
    folder = Path(os.environ.get("GPT2_CHECKPOINTS", beside))
    if not folder.is_dir():
        pytest.skip(f"no real checkpoints at {folder}; GPT2_CHECKPOINTS says where they are")
    return folder


@pytest.fixture(scope="session")
def perturbed_reference() -> "GPT2LMHeadModel":
    """transformers' GPT-2, 12 layers, every parameter perturbed, float32, SDPA. Shared: leave it as it is."""
    from tests.perturbed import perturbed

    return perturbed().requires_grad_(False)


@pytest.fixture(scope="session")
def perturbed_checkpoint(perturbed_reference: "GPT2LMHeadModel", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a Hugging Face directory. Shared: leave it as it is, copy it to change it."""
    from tests.perturbed import save

    return save(perturbed_reference, tmp_path_factory.mktemp("perturbed"))


@pytest.fixture(scope="session")
def book_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, for code whose feed-forward layer is always four times as wide: the book's, nanoGPT's. Shared."""
    from tests.perturbed import perturbed, save

    return save(perturbed(n_inner=None), tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="session")
def book_reference(book_checkpoint: Path) -> "Remembering":
    """The reference for it, which computes each prompt once for all tests: `verify(..., reference=book_reference)`."""
    from gpt2_from_scratch.loading import open_checkpoint
    from gpt2_from_scratch.reference import load_reference
    from tests.remembering import Remembering

    return Remembering(load_reference(open_checkpoint(book_checkpoint)))
