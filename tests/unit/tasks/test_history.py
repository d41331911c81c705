"""Conversations found by name or number; what a search shows of a message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamacli.errors import UsageError
from llamacli.history.store import HistoryStore
from llamacli.tasks import history


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HistoryStore]:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path))
    with HistoryStore() as opened:
        yield opened


def snippet(store: HistoryStore, text: str, *words: str) -> str:
    store.add(store.create(model="m"), None, "user", text)
    return history.search(words, 1)[0].snippet


def test_by_name_and_number(store: HistoryStore) -> None:
    with pytest.raises(UsageError, match="there is no conversation yet"):
        history.find(store, None)
    first, second = store.create(model="m", name="birds"), store.create(model="m")
    assert history.find(store, " birds ").id == history.find(store, str(first)).id == first
    assert history.find(store, None).id == second
    assert [each.id for each in history.chosen([str(second), "birds", str(first)])] == [second, first]
    for which, hint in (("brids", "did you mean birds?"), ("9" * 30, "llamacli history ls shows them"), ("٣", None)):
        with pytest.raises(UsageError, match=f"there is no conversation {which}") as caught:
            history.find(store, which)
        assert hint in (None, caught.value.hint)
    with pytest.raises(UsageError, match=r"there is no conversation 9+…"):
        history.find(store, "9" * 5000)


def test_a_search_for_nothing(store: HistoryStore) -> None:
    with pytest.raises(UsageError, match="nothing to look for"):
        history.search(["", " "], 5)


def test_a_snippet_is_a_line_around_the_word(store: HistoryStore) -> None:
    assert snippet(store, "A\n\tshort  one", "SHORT") == "A short one"
    shown = snippet(store, "a" * 200 + " needle " + "b" * 200, "needle")
    assert (shown[0], shown[-1], len(shown)) == ("…", "…", 102)
    assert shown.index("needle") == 34
    assert snippet(store, "ß" * 150 + "Straße" + "ß" * 150, "STRASSE").index("Straße") == 34  # folding doubles each ß


def test_a_snippet_is_measured_in_cells(store: HistoryStore) -> None:
    shown = snippet(store, "北" * 100 + "首都" + "京" * 100, "首都")
    assert len(shown) == 1 + 16 + 2 + 32 + 1
    assert snippet(store, "e\u0301" * 90, "e").count("e") == 90  # an accent takes no cell


def test_the_beginning_of_a_text() -> None:
    assert history.beginning("a\nb", 10) == "a b"
    assert history.beginning("北" * 10, 9) == "北北北北…"
    assert history.beginning("x" + " " * 100 + "y", 10) == "x…"
