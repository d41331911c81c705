"""What a name of a model means: the built-in model, a file, an alias, a repository of the Hub, a model of Ollama.

tiny                              the built-in model
./model, model.gguf               a file: what begins with . / ~ or ends in .gguf, if it exists. No other file of the
                                  current folder is meant: a cloned repository must not choose a model
qwen3.5:0.8b                      an alias of the catalogue
user/repo[:QUANT]                 a repository, Q4_K_M where no quant is named
user/repo/file.gguf               a file of it
hf.co/…, https://huggingface.co/… the same
https://host/path/model.gguf      a file anywhere on the web
ollama:name[:tag]                 a model that Ollama has pulled
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llamacli.builtin import TINY
from llamacli.errors import ModelNotFound, UsageError, printable

#: The name of the built-in model. A file of that name is meant by ./tiny.
BUILTIN = "tiny"

_HUB_PREFIX = re.compile(r"^(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/", re.IGNORECASE)
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME}?)(?::([A-Za-z0-9_.-]+))?")


@dataclass(frozen=True)
class Reference:
    """What a name means: a `path`, a `repository` with quant or file, a `url`, or the name of a model of `ollama`.

    `preferred` is the quant that the catalogue would like: where the repository has no such file, another one will do.
    """

    text: str
    path: Path | None = None
    repository: str | None = None
    quant: str | None = None
    file: str | None = None
    revision: str | None = None
    preferred: str | None = None
    ollama: str | None = None
    url: str | None = None


def parse(text: str) -> Reference:
    """What a name means; nothing is looked up but whether a file of that name exists.

    Raises UsageError, and ModelNotFound with suggestions for what is neither.
    """
    if text == BUILTIN:
        return Reference(text, path=TINY)
    if "\0" in text or not text.strip():
        raise UsageError("a model's name holds a NUL byte" if text.strip() else "a model's name is empty")
    path = _file(text)
    if path is not None:
        return Reference(text, path=path)
    if text.startswith("ollama:") and text != "ollama:":
        return Reference(text, ollama=text.removeprefix("ollama:"))
    if _HUB_PREFIX.match(text):
        return _page(text)
    if "://" in text:
        from llamacli.models import web

        web.place(text)
        return Reference(text, url=text)
    if _is_path(text):
        raise ModelNotFound(f"no such file: {text}", hint=_beside(Path(text)))
    return _short(text)


def names_file(text: str) -> bool:
    """Whether a file is meant, if there is one of this name."""
    return _is_path(text) or text.lower().endswith(".gguf")


def _is_path(text: str) -> bool:
    """Whether it is written as a path, whatever there is."""
    return text.startswith((".", "/", "~")) or bool(re.match(r"[A-Za-z]:[\\/]", text)) or "\\" in text


def _file(text: str) -> Path | None:
    """The existing file of this name. Raises UsageError for a folder."""
    if not names_file(text):
        return None
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # ~somebody who has no home here
        path = path.expanduser()
    try:
        if path.is_dir():
            raise UsageError(f"{text} is a folder", hint="name the GGUF file in it")
        return path if path.exists() and not path.is_dir() else None
    except OSError as error:  # a name too long for the file system, say
        raise ModelNotFound(f"no such file: {text} ({error.strerror})") from error


def _page(text: str) -> Reference:
    """An address of the Hub: a repository's page, or a file's."""
    path = urlsplit("//" + _HUB_PREFIX.sub("hub/", text)).path
    parts = [unquote(part) for part in path.strip("/").split("/")]  # a revision may be refs%2Fpr%2F1
    if len(parts) == 2:
        return _repository(text, "/".join(parts))
    if len(parts) > 4 and parts[2] in ("resolve", "blob", "tree"):
        return Reference(text, repository="/".join(parts[:2]), revision=parts[3], file="/".join(parts[4:]))
    if len(parts) == 4 and parts[2] == "tree":
        return Reference(text, repository="/".join(parts[:2]), revision=parts[3])
    if len(parts) > 2 and parts[-1].lower().endswith(".gguf"):
        return Reference(text, repository="/".join(parts[:2]), file="/".join(parts[2:]))
    raise UsageError(f"{printable(text, 100)}: a repository's address is https://huggingface.co/user/repo")


def _short(text: str) -> Reference:
    """An alias, user/repo[:QUANT] or user/repo/file.gguf."""
    if text.count("/") >= 2 and text.lower().endswith(".gguf"):
        user, repo, file = text.split("/", 2)
        if re.fullmatch(_NAME, user) and re.fullmatch(_NAME, repo):
            return Reference(text, repository=f"{user}/{repo}", file=file)
    if "/" in text:
        if text.lower().endswith(".gguf"):
            raise ModelNotFound(f"no such file: {text}", hint=_beside(Path(text)))
        return _repository(text, text)
    if text.lower().endswith(".gguf"):
        raise ModelNotFound(f"no such file: {text}", hint=_beside(Path(text)))
    return _alias(text)


def _repository(text: str, name: str) -> Reference:
    match = _REPOSITORY.fullmatch(name)
    if not match or ".." in name or "--" in name:
        raise ModelNotFound(f"no such file: {text}", hint="a repository of the Hub is named user/repo[:QUANT]")
    return Reference(text, repository=match.group(1), quant=match.group(2))


def _alias(text: str) -> Reference:
    from llamacli.models.catalogue import read

    catalogue = read()
    entry = catalogue.find(text)
    if entry is not None:
        return Reference(text, repository=entry.repository, preferred=entry.quant)
    several = catalogue.ambiguous(text)
    if several:
        raise UsageError(f"{text} means several models", hint=f"name one: {', '.join(several)}")
    if os.path.isdir(text):
        raise UsageError(f"{text} is a folder", hint="name the GGUF file in it")
    near = [BUILTIN] if text.lower() == BUILTIN else list(catalogue.suggestions(text))
    near[:0] = [name for name in (f"./{text}", f"{text}.gguf") if os.path.isfile(name)]
    hint = f"did you mean {' or '.join(near)}?" if near else "name a file's path, an alias, or user/repo[:QUANT]"
    raise ModelNotFound(f"there is no model {printable(text, 100)}, and no such file", hint=hint)


def resolve(text: str) -> Path:
    """The file that a name means, on this machine. Raises UsageError, and ModelNotFound with what brings it."""
    reference = parse(text)
    path = locate(reference)
    if path is None:
        raise missing(reference)
    return path


def present(text: str) -> tuple[Reference, Path | None]:
    """What a name means, and its file even where that is damaged, a broken link, or lacks parts: for rm and verify.

    Raises as `parse`; the file is None where nothing of it is on this machine.
    """
    from llamacli.models.store import parts

    try:
        reference = parse(text)
    except ModelNotFound:
        path = Path(os.path.expanduser(text))
        if not any(os.path.lexists(part) for part in parts(path)):
            raise
        return Reference(text, path=path), path
    return reference, locate(reference) or locate(reference, complete=False)


def locate(reference: Reference, *, complete: bool = True) -> Path | None:
    """The file that is meant, None where it is not on this machine; with `complete` false as `store.find`."""
    if reference.path is not None:
        return reference.path
    if reference.url is not None:
        from llamacli.models import web

        return web.locate(reference.url, complete=complete)
    from llamacli.models import store

    revision = reference.revision
    found = (store.find(name, complete=complete, revision=revision) for name in _stored_names(reference))
    return next((path for path in found if path is not None), None)


def missing(reference: Reference) -> ModelNotFound:
    """The error for what is not on this machine."""
    shown, partial = printable(reference.text), locate(reference, complete=False)
    if partial is not None and reference.ollama is None:
        from llamacli.models.store import parts

        files = parts(partial)
        lacking = [str(number) for number, part in enumerate(files, 1) if not part.is_file()]
        what = f"part {', '.join(lacking)} of {len(files)} is missing" if len(files) > 1 else "a broken link"
        return ModelNotFound(f"{shown} is not whole on this machine: {what}", hint=f"llamacli pull {shown}")
    if reference.ollama is not None:
        return ModelNotFound(f"Ollama has no model {printable(reference.ollama)} here", hint="llamacli ls shows them")
    return ModelNotFound(f"{shown} is not on this machine", hint=f"llamacli pull {shown}")


def _stored_names(reference: Reference) -> list[str]:
    """How the store may know it, best first."""
    if reference.ollama is not None:
        return [f"ollama:{reference.ollama}"]
    if reference.file is not None:
        return [f"{reference.repository}/{reference.file}"]
    quants = [reference.quant] if reference.quant else [reference.preferred, None] if reference.preferred else [None]
    return [f"{reference.repository}:{quant}" if quant else f"{reference.repository}" for quant in quants]


def name(path: Path) -> str:
    """How a model's file is called in results."""
    return BUILTIN if path == TINY else str(path)


def _beside(path: Path) -> str | None:
    """The GGUF files of the folder that was meant, if it has any."""
    try:
        names = sorted(entry.name for entry in path.parent.glob("*.gguf"))[:5]
    except OSError:
        return None
    where = "that folder" if path.parent.name else "this folder"
    return f"in {where}: {', '.join(names)}" if names else None
