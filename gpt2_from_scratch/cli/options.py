"""Options that commands share, as the library takes them."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from gpt2_from_scratch.loading import Checkpoint, OpenOptions


def opened(arguments: argparse.Namespace) -> "Checkpoint":
    """The checkpoint that a command is about. Each command opens it once and hands it on."""
    from gpt2_from_scratch.loading import open_checkpoint

    return open_checkpoint(arguments.checkpoint, **checkpoint_options(arguments))


def checkpoint_options(arguments: argparse.Namespace) -> "OpenOptions":
    """How the checkpoint is opened."""
    return {
        "file_layout": layout_choice(arguments.file_layout),
        "key": arguments.key,
        "ignore": arguments.ignore,
        "strip_prefix": arguments.strip_prefix,
        "overrides": settings(arguments.set, "--set"),
        "mmap": not arguments.no_mmap,
        "revision": arguments.revision,
        "cache_dir": arguments.cache_dir,
        "local_files_only": arguments.local_files_only,
    }


def as_flags(options: Mapping[str, object]) -> str:
    """Options of the library as the command line spells them, for a hint."""
    words: list[str] = []
    for name, value in options.items():
        if name == "overrides" and isinstance(value, dict):
            words += [part for key, each in value.items() for part in ("--set", f"{key}={_as_setting(each)}")]
            continue
        for each in value if isinstance(value, tuple | list) else (value,):
            words += ["--" + name.replace("_", "-"), str(each)]
    return "give " + shlex.join(words)


def _as_setting(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


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


def layout_choice(choice: str | None) -> Any:
    """The name of a layout, or a user's own out of ``FILE.py:NAME``."""
    if choice is None or ":" not in choice:
        return choice
    from gpt2_from_scratch.building import load_object
    from gpt2_from_scratch.layouts import layout_variants

    layout = load_object(choice).object
    layout_variants("" if layout is None else layout)  # refuses what is none; None would choose another one silently
    return layout


def device_choice(name: str) -> "torch.device":
    """The device of a name, if a model can be computed there."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is none that PyTorch knows: cpu, cuda, cuda:1, mps, xpu") from None
    try:
        torch.zeros(
            1, device=device
        ).item()  # fails on devices that are not there, and on `meta`, which holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name} cannot be used here: {str(error).splitlines()[0]:.100}") from None
    return device


def dtype_choice(name: str | None) -> "torch.dtype | None":
    """The dtype of a name."""
    if name is None:
        return None
    import torch

    return getattr(torch, name)  # type: ignore[no-any-return]
