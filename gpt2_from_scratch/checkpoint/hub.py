"""The Hugging Face Hub: a repository id becomes a local directory that holds just the files asked for.

`huggingface_hub` does the transport and the caching; it honours `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and
`HF_HUB_OFFLINE`. This module turns its exceptions into a `CheckpointError` that says what to do.

The server is trusted: `huggingface_hub` (tried: 2.4.0) calls a downloaded file by the ETag that the server gives for
it, without a look at path separators. A question for the ETag beforehand would not help, as the server is asked again.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict, Unpack

from gpt2_from_scratch.errors import CheckpointError


class HubOptions(TypedDict, total=False):
    """Which version of a repository on the Hugging Face Hub, and how to reach it. Each may be left out.

    Args:
        revision: branch, tag or commit; None is ``main``.
        token: for private repositories; None uses the user's login.
        cache_dir: instead of the user's Hub cache.
        local_files_only: use the cache only, no network.
    """

    revision: str | None
    token: str | None
    cache_dir: str | Path | None
    local_files_only: bool


_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_repo_id(source: str) -> bool:
    """Whether this could be a Hub id: ``name`` or ``owner/name``, and no existing path."""
    return _REPO_ID.fullmatch(source) is not None and not source.startswith(".") and not Path(source).exists()


def fetch(repo_id: str, names: Iterable[str], *, first: bool = False, **options: Unpack[HubOptions]) -> dict[str, Path]:
    """Downloads those of the named files that the repository has, with a progress bar for each on a terminal.

    Args:
        repo_id: for example ``openai-community/gpt2``.
        names: files wanted; one that the repository lacks is left out of the result.
        first: the names are alternatives: stop at the first that is there.
        **options: see `HubOptions`.

    Returns:
        name -> local path. All of one revision lie in one directory.

    Raises:
        CheckpointError: no such repository or revision, no access, no network and not in the cache.
    """
    # Imported here, as it takes a tenth of a second and local checkpoints do not need it.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted, found, offline = list(names), {}, options.get("local_files_only")
    absent = None if offline or not wanted else _unreachable(repo_id, wanted[0], options)
    if absent is not None:
        options["local_files_only"] = True
    for name in wanted:
        try:
            path = hf_hub_download(repo_id, name, **options)
        except LocalEntryNotFoundError as error:
            absent = absent or error  # not in the cache, and not asked for or not reachable on the network
            options["local_files_only"] = True  # nobody answered: only the cache is asked for the others
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
                f"{repo_id} has no revision {options.get('revision')!r}",
                hint="its page lists branches, tags and commits",
            ) from None
        except Exception as error:  # a full disk, a lost connection: their classes differ between versions
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
            if offline
            else f"the Hub did not give them ({_first_line(absent.__cause__ or absent)}): check the network, the "
            "spelling, or HF_ENDPOINT",
        )
    return found


def _unreachable(repo_id: str, name: str, options: HubOptions) -> Exception | None:
    """Why the Hub cannot be reached; None if it answers, be it with a refusal, which `hf_hub_download` explains.

    This asks once. `hf_hub_download` asks six times, with 23 seconds of pauses, before it gives up.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        get_hf_file_metadata(hf_hub_url(repo_id, name, revision=options.get("revision")), token=options.get("token"))
    except (HfHubHTTPError, HFValidationError):
        return None
    except Exception as error:  # their classes differ between versions
        return error
    return None


def unknown(repo_id: str, names: Iterable[str], **options: Unpack[HubOptions]) -> list[str]:
    """Files whose presence in the repository is unknown, because they were never requested online.

    Args:
        repo_id: as in `fetch`. Call `fetch` for these names first: online, it leaves none of them unknown.
        names: files.
        **options: as in `fetch`.
    """
    from huggingface_hub import try_to_load_from_cache

    cache_dir, revision = options.get("cache_dir"), options.get("revision")
    cached = {name: try_to_load_from_cache(repo_id, name, cache_dir=cache_dir, revision=revision) for name in names}
    return [name for name, path in cached.items() if path is None]  # a file known to be absent has a marker


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
