"""A chat on a real model: what is evaluated, what the context holds, what leaves it, what is kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from make_gguf import write_mamba

from llamacli.builtin import TINY
from llamacli.engine.types import Chunk, ContextOptions, Finish, ModelOptions
from llamacli.errors import ContextFull, OutOfMemory, UsageError
from llamacli.history.store import HistoryStore
from llamacli.tasks.chat import Chat, ChatOptions, Dropped
from llamacli.tasks.complete import Progress
from llamacli.tasks.conversation import Conversation

Make = Callable[..., Chat]


@pytest.fixture
def make() -> Iterator[Make]:
    opened: list[Chat] = []

    def begin(model: Path = TINY, store: HistoryStore | None = None, name: str = "tiny", **options: Any) -> Chat:
        conversation = Conversation(model=name, store=store)
        context = ContextOptions(n_ctx=0, n_threads=1)
        values = {"sampling": {"temp": 0.0}, "context": context, **options}
        opened.append(Chat(conversation, name, ModelOptions(model), ChatOptions(**values), Progress()))
        return opened[-1]

    yield begin
    for chat in opened:
        chat.__exit__()


def ask(chat: Chat, text: str) -> str:
    chat.conversation.say(text)
    return answer(chat)


def answer(chat: Chat) -> str:
    return b"".join(event.data for event in chat.answer() if isinstance(event, Chunk)).decode()


def evaluated(chat: Chat) -> int:
    assert chat.spent is not None
    return chat.spent.evaluated


def new_tokens(chat: Chat, text: str) -> int:
    return len(chat.load().model.tokenize(text, add_special=False))


def written(chat: Chat) -> int:
    """Tokens that ChatML itself writes after an answer, around the next message, and before the next answer."""
    around = "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    return sum(len(chat.load().model.tokenize(text, add_special=False, parse_special=True)) for text in around)


QUESTIONS = [f"What is {a} plus {b}?" for a in (1, 3, 5, 7) for b in (2, 4, 6, 8, 9)]


def test_only_the_new_tokens_of_20_turns_are_evaluated(make: Make) -> None:
    chat = make()
    answers = [ask(chat, QUESTIONS[0])]
    for question in QUESTIONS[1:]:
        answers.append(ask(chat, question))
        assert evaluated(chat) == new_tokens(chat, question) + written(chat)
    assert len(answers) == 20
    used = chat.spent.used if chat.spent else 0
    assert used > 300  # so that all of it would have been much more
    fresh = make()
    for question, wanted in zip(QUESTIONS, answers, strict=True):
        fresh.load().context.keep(0)  # all of it evaluated anew gives the same
        assert ask(fresh, question) == wanted


def test_after_undo_edit_and_retry_only_what_differs_is_evaluated(make: Make) -> None:
    chat = make()
    for question in QUESTIONS[:5]:
        ask(chat, question)
    chat.conversation.undo()
    ask(chat, "What is 9 plus 10?")
    same = new_tokens(chat, "What is ")
    assert evaluated(chat) <= new_tokens(chat, "What is 9 plus 10?") + written(chat) - same
    said = chat.conversation.last("user")
    assert said is not None
    chat.conversation.go(said.parent)  # /edit
    ask(chat, "What is 10 plus 10?")
    assert evaluated(chat) <= new_tokens(chat, "What is 10 plus 10?") + written(chat) - same
    chat.conversation.go(chat.conversation.last("user"))  # /retry
    answer(chat)
    assert evaluated(chat) == 1
    assert len(chat.conversation.branches()) == 4


def test_a_model_that_is_come_back_to_has_kept_its_context(make: Make, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(TINY.read_bytes())
    chat = make()
    for question in QUESTIONS[:3]:
        ask(chat, question)
    chat.switch("other", ModelOptions(other))
    ask(chat, QUESTIONS[1])
    total = chat.spent.finish.stats.prompt_tokens if chat.spent else 0
    assert evaluated(chat) == total  # it has seen nothing yet
    chat.switch("tiny", ModelOptions(TINY))
    ask(chat, QUESTIONS[2])
    two_turns = 2 * (new_tokens(chat, QUESTIONS[2]) + written(chat)) + 4
    assert evaluated(chat) <= two_turns < (chat.spent.finish.stats.prompt_tokens if chat.spent else 0)
    chat.switch("other", ModelOptions(other))
    ask(chat, QUESTIONS[3])
    assert evaluated(chat) <= two_turns


def test_a_recurrent_model_chats_and_goes_back(make: Make, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    path = write_mamba(tmp_path / "mamba.gguf", chat_template=template)
    chat = make(path, name="mamba", max_tokens=8)
    first = ask(chat, "the cat sat")
    ask(chat, "on the mat")
    chat.conversation.undo()
    chat.conversation.undo()
    assert ask(chat, "the cat sat") == first


STORY = "Tell me a story about Lily."


def test_shift_goes_on_five_times_as_long_as_the_context(make: Make) -> None:
    chat = make()
    chat.conversation.system = "Answer in few words."
    total, dropped, longest = 0, 0, 0
    rng = random.Random(1)
    while total < 5 * 1024:
        chat.conversation.say(rng.choice([STORY, *QUESTIONS]))
        for event in chat.answer():
            if isinstance(event, Dropped):
                dropped += event.turns
            elif isinstance(event, Finish):
                assert event.reason == "stop"
                total += event.stats.completion_tokens + event.stats.evaluated_tokens
                longest = max(longest, event.stats.prompt_tokens + event.stats.completion_tokens)
    assert dropped > 0
    assert longest <= 1024
    turns = chat.seen()
    assert 0 < len(turns) < len(chat.conversation.path())
    assert "Answer in few words." in chat.prompt(chat.load(), turns)[0].text  # the system message stays
    assert turns[0].role == "user"


def until_it_is_full(chat: Chat) -> None:
    for _ in range(100):
        ask(chat, STORY)


def test_error_ends_with_everything_kept(make: Make, tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "h.sqlite3") as store:
        chat = make(store=store, on_overflow="error")
        with pytest.raises(ContextFull, match=r"the conversation has \d{4} tokens, and the context holds 1024"):
            until_it_is_full(chat)
        entries = store.entries(chat.conversation.id or 0)
    assert [entry.content for entry in entries] == [turn.content for turn in chat.conversation.turns]
    assert len(entries) > 8


def test_a_message_that_alone_is_too_long_is_refused_with_both_numbers(make: Make) -> None:
    chat = make(n_ctx=256)
    chat.conversation.say("honey " * 400)
    with pytest.raises(ContextFull, match=r"the last message alone has \d{3,} tokens, and the context holds 256"):
        answer(chat)
    chat.conversation.undo()
    assert "15" in ask(chat, "What is 7 plus 8?")


def test_the_context_grows_as_it_is_needed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a prompt and within an answer, without evaluating anything again; the texts are those of a large one."""
    large = make()
    wanted = [ask(large, STORY) for _ in range(7)]
    monkeypatch.setattr("llamacli.tasks.loaded.START_CTX", 256)
    chat = make()
    assert chat.load().n_ctx == 256
    assert [ask(chat, STORY) for _ in range(7)] == wanted
    assert chat.load().n_ctx == 1024
    assert evaluated(chat) <= new_tokens(chat, STORY) + written(chat)


def test_a_context_begins_smaller_where_memory_is_short(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamacli.engine import context

    def refuse(model: Any, options: ContextOptions) -> None:
        if options.n_ctx > 300:
            raise OutOfMemory("no room")

    monkeypatch.setattr(context, "_refuse_impossible", refuse)
    monkeypatch.setattr("llamacli.tasks.loaded.SMALLEST_CTX", 256)
    chat = make()
    assert chat.load().n_ctx == 256
    assert "15" in ask(chat, "What is 7 plus 8?")
    for _ in range(6):  # nor can it grow: the oldest turns go
        ask(chat, STORY)
    assert chat.load().n_ctx <= 300
    with pytest.raises(OutOfMemory):
        make(n_ctx=512).load()  # what was asked for is not made smaller


def test_a_size_that_was_asked_for_stays(make: Make) -> None:
    chat = make(n_ctx=256)
    for question in QUESTIONS:
        ask(chat, question)
    assert chat.load().n_ctx == 256
    assert chat.load().context.n_ctx == 256


def test_settings(make: Make) -> None:
    chat = make()
    chat.set("temperature", "0.5")
    chat.set("--top-k", "3")
    chat.set("n", "4")
    assert chat.conversation.settings == {"temp": 0.5, "top_k": 3, "n": 4}
    assert len(ask(chat, STORY).split()) <= 4
    chat.set("n", "default")
    assert dict(chat.values())["temp"] == "0.5"
    for name, value, message in [
        ("temp", "warm", "a number is wanted"),
        ("top_k", "1.5", "a whole number is wanted"),
        ("temp", "-1", "must be 0 or more"),
        ("temp", "nan", "not a number to sample with"),
        ("tempp", "1", "did you mean temp"),
    ]:
        with pytest.raises(UsageError, match=message):
            chat.set(name, value)
    assert chat.conversation.settings == {"temp": 0.5, "top_k": 3}


def test_a_model_that_cannot_be_opened_leaves_the_one_before(make: Make, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF nonsense")
    chat = make()
    ask(chat, QUESTIONS[0])
    with pytest.raises(Exception, match=r"bad\.gguf"):
        chat.switch("bad", ModelOptions(bad))
    assert chat.name == "tiny"
    assert ask(chat, "What is 7 plus 8?") == "15"
