"""One streamed answer of a server, checked: its status, where it comes from, and whether it is the version meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llamacli.errors import ChecksumMismatch, LlamacliError, NetworkError, printable
from llamacli.models import hub

if TYPE_CHECKING:
    from llamacli.models.hub import Source

#: Seconds without a byte that end an attempt.
SILENCE = 30.0


class Again(Exception):
    """An attempt failed in a way that another one may mend, after so many `seconds` if the server says."""

    def __init__(self, error: LlamacliError, seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.seconds = error, seconds


class Answer:
    """A streamed response. Raises Again for what another attempt may mend, else what `hub.refused` gives."""

    def __init__(self, source: Source, headers: dict[str, str]) -> None:
        import httpx2

        self._errors = (httpx2.HTTPError, httpx2.StreamError)
        timeout = httpx2.Timeout(SILENCE)
        asked = urlsplit(source.url)
        self._source, self._open = source, hub.unsafe(asked.scheme, asked.hostname)
        self._stream = source.client.stream("GET", source.url, headers=headers, timeout=timeout, follow_redirects=True)

    def __enter__(self) -> Answer:
        try:
            self._response = self._stream.__enter__()
        except self._errors as error:
            raise Again(NetworkError(f"the connection failed: {printable(str(error), 200)}")) from error
        self.status = int(self._response.status_code)
        try:
            self._check()
        except BaseException:
            self._stream.__exit__(None, None, None)
            raise
        return self

    def _check(self) -> None:
        if self.status == 403 and self.header("x-error-code") == "GatedRepo":  # although it could be listed
            raise hub.gated(self._source.repository, "authorization" in self._source.headers)
        if self.status >= 400 and self.status != 416:
            refusal = hub.refused(self.status, "the server")
            if isinstance(refusal, NetworkError) and not isinstance(refusal, hub.PlainRefused):
                raise Again(refusal, seconds(self.header("retry-after")))
            raise refusal
        if not self._open and hub.led_astray(self._response):
            raise NetworkError("the server leads from https to plain http")
        version = self.header("etag") or self.header("last-modified")
        if self._source.version and version and version != self._source.version:
            raise NetworkError("the file changed while it came", hint="pull again: the new version will come")

    def __exit__(self, *exception: Any) -> None:
        self._stream.__exit__(*exception)

    def header(self, name: str) -> str:
        """A header's value, "" where it is missing."""
        return str(self._response.headers.get(name, ""))

    def check_length(self, size: int) -> None:
        """Whether the whole file is announced, if anything is."""
        length = self.header("content-length")
        if length and length != str(size):
            raise Again(ChecksumMismatch(f"the server offers {length} bytes, not {size}", hint="try again"))

    def blocks(self) -> Iterator[bytes]:
        """The body as it comes."""
        try:
            yield from self._response.iter_raw()
        except self._errors as error:
            raise Again(NetworkError(f"the connection broke: {printable(str(error), 200)}")) from error


def seconds(text: str) -> float | None:
    """What a Retry-After header says, if it is a number."""
    return float(text) if text.isascii() and text.isdigit() else None
