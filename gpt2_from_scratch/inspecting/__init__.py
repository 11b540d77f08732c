"""Says what a file or folder is: a GPT-2, with statistics of its weights, or something else, and why it does not fit.

inspection.py   describes a checkpoint that opens
contents.py     describes a file or folder that does not
statistics.py   numbers about a tensor, and warnings
official.py     whether the weights are OpenAI's own
"""

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from gpt2_from_scratch.checkpoint import locate
from gpt2_from_scratch.errors import CheckpointError
from gpt2_from_scratch.inspecting import contents, inspection
from gpt2_from_scratch.inspecting.contents import Contents, Stored, contents_of
from gpt2_from_scratch.inspecting.inspection import VERSION, Inspection, inspect_opened
from gpt2_from_scratch.inspecting.official import OfficialWeights, identify, is_official_size
from gpt2_from_scratch.inspecting.statistics import Statistics
from gpt2_from_scratch.layouts import layout_variants
from gpt2_from_scratch.loading import Checkpoint, OpenOptions, Source, hub_options, open_checkpoint

__all__ = [
    "VERSION",
    "Contents",
    "Inspection",
    "OfficialWeights",
    "Statistics",
    "Stored",
    "identify",
    "inspect_checkpoint",
    "is_official_size",
    "summary",
]


def inspect_checkpoint(
    source: Source | Checkpoint,
    *,
    statistics: bool = True,
    checksum: bool = False,
    progress: Callable[[str], None] = lambda name: None,
    **options: Unpack[OpenOptions],
) -> Inspection | Contents:
    """Describes a file or a folder, whether it is a GPT-2 or not.

    Args:
        source: a file, a directory, a Hub id, or an opened `Checkpoint`.
        statistics: read every weight; without it, only what the tables of contents say.
        checksum: compare the SHA-256 of files that are as long as an official one.
        progress: called with the name of each tensor as it is read.
        **options: how it is opened; see `OpenOptions`.

    Returns:
        An `Inspection` of a checkpoint that opens; of anything else its `Contents`, with the reason.

    Raises:
        CheckpointError: there is no such file or folder, or no such layout as `file_layout` names.

    Example:
        >>> inspection = inspect_checkpoint("tiny")
        >>> inspection.layout, len(inspection.statistics), inspection.warnings
        ('huggingface', 148, ())
    """
    file_layout = options.get("file_layout")
    if file_layout is not None:
        layout_variants(file_layout)  # a misspelt name is the caller's mistake, and no property of the file
    try:
        checkpoint = open_checkpoint(source, **options)
    except CheckpointError as error:
        if isinstance(source, Checkpoint):
            raise
        path = Path(source).expanduser()
        if not str(source) or not (path.is_file() or path.is_dir()):
            path = locate(source, **hub_options(options)).weights  # the Hub's, or the same error again
        return contents_of(str(source), path, error, options.get("key", ""))
    return inspect_opened(checkpoint, statistics=statistics, checksum=checksum, progress=progress)


def summary(found: Inspection | Contents) -> list[tuple[str, str]]:
    """The result for people, as rows: a title, and the text."""
    return contents.rows_of(found) if isinstance(found, Contents) else inspection.rows_of(found)
