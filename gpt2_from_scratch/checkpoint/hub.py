"""The Hugging Face Hub: a repository id becomes a local directory that holds just the files asked for.

Everything about transport, cache, tokens and mirrors is `huggingface_hub`'s; it honours `HF_HOME`, `HF_TOKEN`,
`HF_ENDPOINT` and `HF_HUB_OFFLINE`. Here only its failures are put into words.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from gpt2_from_scratch.errors import CheckpointError

_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_repo_id(source: str) -> bool:
    """Whether this could be a Hub id: ``name`` or ``owner/name``, and no existing path."""
    return _REPO_ID.fullmatch(source) is not None and not source.startswith(".") and not Path(source).exists()


def fetch(
    repo_id: str,
    names: Iterable[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    first: bool = False,
) -> dict[str, Path]:
    """Downloads those of the named files that the repository has, with a progress bar for each on a terminal.

    Args:
        repo_id: for example ``openai-community/gpt2``.
        names: files wanted; one that the repository lacks is left out of the result.
        revision: branch, tag or commit; None is ``main``.
        token: for private repositories; None uses the user's login.
        cache_dir: instead of the user's cache.
        local_files_only: use the cache only, no network.
        first: the names are alternatives: stop at the first that is there.

    Returns:
        name -> local path. All of one revision lie in one directory.

    Raises:
        CheckpointError: no such repository or revision, no access, no network and not in the cache.
    """
    # Imported here: it costs a tenth of a second, which nobody with a local checkpoint should pay.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    found, absent = {}, None
    for name in names:
        try:
            path = hf_hub_download(
                repo_id,
                name,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        except LocalEntryNotFoundError as error:
            absent = error  # not in the cache, and not asked for or not reachable on the network
        except EntryNotFoundError:
            continue
        except GatedRepoError:
            raise CheckpointError(
                f"{repo_id} is gated", hint="ask for access on its page, then `hf auth login`"
            ) from None
        except RepositoryNotFoundError:
            raise CheckpointError(
                f"{repo_id!r} is neither a path here nor a repository on the Hub (or it is private)",
                hint="check the spelling; for a private one, `hf auth login` or set HF_TOKEN",
            ) from None
        except RevisionNotFoundError:
            raise CheckpointError(
                f"{repo_id} has no revision {revision!r}", hint="its page lists branches, tags and commits"
            ) from None
        except Exception as error:  # a full disk, a line that breaks: the transport's classes change with its versions
            raise CheckpointError(
                f"{repo_id}: cannot fetch {name}: {_first_line(error)}",
                hint="check the spelling, the network and HF_ENDPOINT; for a private repository set HF_TOKEN",
            ) from None
        else:
            found[name] = Path(path)
            if first:
                break
    if not found and absent is not None:
        raise CheckpointError(
            f"{repo_id!r} is not a path here, and its files are not in the local cache of the Hub",
            hint="offline mode is on: fetch it once without local_files_only"
            if local_files_only
            else f"the Hub did not give them ({_first_line(absent.__cause__ or absent)}): check the network, the "
            "spelling, or HF_ENDPOINT",
        )
    return found


def unknown(
    repo_id: str, names: Iterable[str], *, revision: str | None = None, cache_dir: str | Path | None = None
) -> list[str]:
    """Those of the named files of which the cache does not say whether the repository has them: never asked for online.

    Args:
        repo_id: as in `fetch`, which has been called for these names: online, that leaves nothing unknown.
        names: files.
        revision: as in `fetch`.
        cache_dir: as in `fetch`.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = {name: try_to_load_from_cache(repo_id, name, cache_dir=cache_dir, revision=revision) for name in names}
    return [name for name, path in cached.items() if path is None]  # of an absent one, the cache says that it is


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
