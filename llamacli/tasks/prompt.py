"""The parts of a prompt, joined: files, standard input, the argument."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamacli.errors import StorageError, UsageError

#: Bytes of one part.
MOST = 1 << 30


def gather(
    argument: str | None,
    files: Sequence[Path],
    piped: bytes | None,
    *,
    raw: bool = False,
    replace_invalid: bool = False,
) -> str:
    """One text: what stays the same from call to call comes first, so that its evaluation can be reused.

    One final newline of each file and of standard input is dropped. Parts are joined by a blank line, with `raw` by
    nothing. Raises UsageError where there is nothing at all, a file is missing, or a part is no UTF-8.
    """
    parts = [decode(read_file(path, f"--file {path}"), str(path), replace_invalid) for path in files]
    if piped:
        parts.append(decode(piped, "standard input", replace_invalid))
    parts = [without_final_newline(part) for part in parts]
    if argument is not None:
        parts.append(_encodable(argument, replace_invalid))
    if not any(parts) and (argument is None or not raw):  # an empty argument is most often an unset variable
        raise UsageError("there is no text", hint="give it as an argument, with --file, or through a pipe")
    return ("" if raw else "\n\n").join(part for part in parts if part)


def without_final_newline(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text[:-1] if text.endswith("\n") else text


def read_file(path: Path, label: str) -> bytes:
    """All of it. `label` begins the messages. Raises UsageError, StorageError."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except IsADirectoryError as error:
        raise UsageError(f"{label}: it is a folder") from error
    except FileNotFoundError as error:
        raise UsageError(f"{label}: no such file") from error
    except OSError as error:
        raise StorageError(f"{label}: {error.strerror}") from error
    if len(data) > MOST:
        raise UsageError(f"{label}: it is larger than {MOST >> 30} GiB; no context holds that")
    return data


def decode(data: bytes, name: str, replace_invalid: bool | None) -> str:
    """UTF-8 to text, a byte-order mark dropped. Raises UsageError with the place of the first wrong byte.

    `replace_invalid` None: the command has no such option.
    """
    try:
        return data.decode("utf-8-sig", "replace" if replace_invalid else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{name} is no UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}, line {line}",
            hint="--replace-invalid reads it all the same, with U+FFFD for what is no UTF-8"
            if replace_invalid is not None
            else None,
        ) from error


def _encodable(argument: str, replace_invalid: bool) -> str:
    """Bytes of an argument that are no UTF-8 reach Python as lone surrogates."""
    return decode(argument.encode("utf-8", "surrogateescape"), "the prompt", replace_invalid)
