"""Where models lie: ours, the Hub cache, Ollama, LM Studio, llama.cpp; and which of these a file belongs to."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from llamacli import paths
from llamacli.builtin import TINY


def hub_cache() -> Path:
    """huggingface_hub's cache, by its own variables (`huggingface_hub.constants`)."""
    named = [*environment("HF_HUB_CACHE"), *environment("HUGGINGFACE_HUB_CACHE")]
    caches = [*environment("XDG_CACHE_HOME"), _home(".cache")]
    homes = [*environment("HF_HOME"), caches[0] / "huggingface"]
    return [*named, homes[0] / "hub"][0]


def hub_roots() -> list[Path]:
    """All folders with the Hub cache's layout: newer versions of llama.cpp keep theirs so, too."""
    return different([hub_cache(), *environment("LLAMA_CACHE")])


def lm_studio_folders() -> list[Path]:
    return different([_home(".lmstudio/models"), _home(".cache/lm-studio/models")])


def llama_cpp_cache() -> Path:
    """Where llama.cpp kept downloads before it took to the Hub cache (`fs_get_cache_directory`)."""
    if sys.platform == "darwin":
        default = _home("Library/Caches")
    elif sys.platform == "win32":
        default = [*environment("LOCALAPPDATA"), _home("AppData/Local")][0]
    else:
        default = [*environment("XDG_CACHE_HOME"), _home(".cache")][0]
    return [*environment("LLAMA_CACHE"), default / "llama.cpp"][0]


def ollama_folders() -> list[Path]:
    """Ollama's model folders: the one that is named, or the user's and that of its service on Linux."""
    return environment("OLLAMA_MODELS") or [_home(".ollama/models"), Path("/usr/share/ollama/.ollama/models")]


def web_folder() -> Path:
    """Where files lie that were pulled from an address: host/path/file.gguf."""
    return paths.data() / "web"


def address(path: Path) -> str:
    """The address of a file in web_folder(), as -m takes it."""
    host, *rest = path.relative_to(web_folder()).parts
    host = re.sub(r"_(\d+)$", r":\1", host)
    return f"https://{quote(os.fsencode(host), safe=':')}/{quote(os.fsencode('/'.join(rest)))}"


def source(path: Path) -> tuple[str, Path, Path | None]:
    """Which store a file belongs to, as in LocalModel; its path as `local_models` spells it; and the store's folder.

    The source of a file outside of all stores is "file", its folder None. How the path is spelled decides first: what a
    link in a store leads to does not matter.
    """
    roots = [("huggingface", root) for root in hub_roots()]
    roots += [("lmstudio", root) for root in lm_studio_folders()]
    roots += [("ollama", root) for root in ollama_folders()]
    roots += [("llama.cpp", llama_cpp_cache()), ("web", web_folder())]
    spelled, real = Path(os.path.abspath(path)), Path(os.path.realpath(path.parent)) / path.name
    for name, root in roots:
        for place, folder in ((spelled, Path(os.path.abspath(root))), (real, Path(os.path.realpath(root)))):
            if place.is_relative_to(folder):
                inside = place.relative_to(folder)
                if name != "huggingface" or inside.as_posix().startswith("models--"):
                    return name, root / inside, root
    return ("builtin" if real == Path(os.path.realpath(TINY.parent)) / TINY.name else "file"), path, None


def hub_name(path: Path) -> str | None:
    """user/repo/file.gguf of a file in a snapshot of the Hub cache; None for any other file."""
    name, place, root = source(path)
    inside = place.relative_to(root).parts if name == "huggingface" and root is not None else ()
    if len(inside) > 3 and inside[1] == "snapshots":
        return "/".join([inside[0].removeprefix("models--").replace("--", "/"), *inside[3:]])
    return None


def environment(variable: str) -> list[Path]:
    """The folder that a variable names, or nothing."""
    value = os.environ.get(variable)
    return [Path(os.path.expandvars(os.path.expanduser(value)))] if value else []


def _home(folder: str) -> Path:
    return Path(os.path.expanduser("~")) / folder


def different(folders: Iterable[Path]) -> list[Path]:
    """Each folder once, also where one is a link to another."""
    return list({os.path.realpath(folder): folder for folder in reversed([*folders])}.values())[::-1]
