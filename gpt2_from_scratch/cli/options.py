"""Options that commands share, as the library takes them."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def checkpoint_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the file is opened: the options of `open_checkpoint`."""
    return {
        "layout": layout_choice(arguments.file_layout),
        "strip_prefix": arguments.strip_prefix,
        "ignore": arguments.ignore,
        "overrides": settings(arguments.set, "--set"),
        "mmap": not arguments.no_mmap,
        **hub_options(arguments),
    }


def settings(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Names and values; a value is JSON, or else the text itself: ``n_head=6``, ``activation_function=gelu``."""
    import json

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"{option} {text} is not KEY=VALUE, as n_head=6")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def hub_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where on the Hub, and whether to ask it."""
    return {
        "revision": arguments.revision,
        "cache_dir": arguments.cache_dir,
        "local_files_only": arguments.local_files_only,
    }


def for_file(options: dict[str, Any]) -> dict[str, Any]:
    """The same for functions whose `layout` is the candidate's: there the file's is called `file_layout`."""
    return {"file_layout" if name == "layout" else name: value for name, value in options.items()}


def layout_choice(choice: str | None) -> Any:
    """The name of a layout, or a user's own out of ``FILE.py:NAME``."""
    if choice is None or ":" not in choice:
        return choice
    from gpt2_from_scratch.building import load_object

    return load_object(choice).object


def dtype_choice(name: str | None) -> "torch.dtype | None":
    """The dtype of a name."""
    if name is None:
        return None
    import torch

    return getattr(torch, name)  # type: ignore[no-any-return]
