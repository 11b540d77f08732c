"""Fixtures for equivalence tests, found by pytest wherever this package is installed.

In a repository that never asks for them they cost nothing: nothing heavy is imported before a fixture is used.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--gpt2-checkpoint``, for the fixture `gpt2_checkpoint`."""
    group = parser.getgroup("gpt2", "GPT-2 equivalence tests")
    group.addoption(
        "--gpt2-checkpoint",
        metavar="CHECKPOINT",
        help="what the fixture gpt2_checkpoint is: a Hub id, a directory or a file "
        "(default: the small trained model inside gpt2_from_scratch)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The line in pytest's summary begins with the cause of a divergence, not with the path of its exception."""
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    crash = getattr(report.longrepr, "reprcrash", None)
    if type(error).__name__ == "DivergenceError" and crash is not None:  # by its name: to import it takes torch
        crash.message = str(error)
    return report


@pytest.fixture(scope="session")
def gpt2_tiny() -> Path:
    """The small trained model inside the package, as a Hugging Face directory: 12 layers, a vocabulary of 512."""
    from gpt2_from_scratch.loading import TINY

    return TINY


@pytest.fixture(scope="session")
def gpt2_perturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory: 12 small layers, every parameter perturbed, so that no visible fault stays hidden.

    Other models are asked for by arguments of `testing.perturbed_checkpoint`:

        @pytest.mark.parametrize("gpt2_perturbed", [{"bias": False}, {"activation_function": "gelu"}], indirect=True)
    """
    from gpt2_from_scratch.testing import perturbed_checkpoint

    return perturbed_checkpoint(tmp_path_factory.mktemp("gpt2_perturbed"), **getattr(request, "param", {}))


@pytest.fixture(scope="session")
def gpt2_checkpoint(request: pytest.FixtureRequest) -> str:
    """The checkpoint that ``--gpt2-checkpoint`` names, or else the small trained one."""
    return request.config.getoption("--gpt2-checkpoint") or str(request.getfixturevalue("gpt2_tiny"))


@pytest.fixture(scope="session")
def gpt2_grade() -> Any:
    """A function that says what a check of your own is worth; its result is false where the check misses a fault."""
    from gpt2_from_scratch.diagnose.grade import grade

    return grade
