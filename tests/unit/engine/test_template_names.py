"""Templates by name: llama.cpp's own `llama_chat_apply_template` writes the same texts."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from llamacli.engine import template_names
from llamacli.engine.native import C
from llamacli.engine.template import Template
from llamacli.engine.types import Message, ModelOptions, SpecialToken

# White space around the texts shows which of them a format trims.
SYSTEM, USER, ANSWER = (
    Message("system", " Be terse. \n"),
    Message("user", "\tHi, 你好! \n"),
    Message("assistant", " Yo \n"),
)
AGAIN, MORE = Message("user", "Why “so”?"), Message("assistant", "Why not?")

CONVERSATIONS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "answered": [USER, ANSWER, AGAIN],
    "full": [SYSTEM, USER, ANSWER, AGAIN],
    "long": [SYSTEM, USER, ANSWER, AGAIN, MORE, USER],
    "two users": [USER, AGAIN],
    "ends with an answer": [SYSTEM, USER, ANSWER],
}


def by_llama_cpp(name: str, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    rows = [C.llama_chat_message(message.role.encode(), message.content.encode()) for message in messages]
    chat = (C.llama_chat_message * len(rows))(*rows)
    buffer = ctypes.create_string_buffer(10_000)
    size = C.llama_chat_apply_template(name.encode(), chat, len(rows), add_generation_prompt, buffer, len(buffer))
    assert 0 < size < len(buffer), name
    return buffer.raw[:size].decode()


def render(
    folder: Path, name: str, messages: Sequence[Message], *, special: Sequence[SpecialToken] = (), ask: bool = True
) -> str:
    source = template_names.source(name)
    assert source is not None
    (folder / hashlib.sha256(source.encode()).hexdigest()).touch()  # so that no child process is needed
    template = Template(source, special=special, bos="<bos>", eos="<eos>", remember=folder)
    return template.render(messages, add_generation_prompt=ask).text


def test_all_of_llama_cpps_names_are_known() -> None:
    count = C.llama_chat_builtin_templates(None, 0)
    theirs = (ctypes.c_char_p * count)()
    C.llama_chat_builtin_templates(theirs, count)
    assert template_names.names() == sorted(name.decode() for name in theirs if name)
    assert count >= 54


def test_names_in_any_case_and_unknown_ones() -> None:
    assert template_names.source("ChatML") == template_names.source("chatml")
    assert template_names.source("chat") is None


#: Where llama.cpp is not followed; see below.
OTHERWISE = {"gpt-oss", "hunyuan-dense", "yandex"}


@pytest.mark.parametrize("name", [name for name in template_names.names() if name not in OTHERWISE])
def test_the_text_is_llama_cpps(name: str, tmp_path: Path) -> None:
    for conversation, messages in CONVERSATIONS.items():
        for ask in (True, False):
            assert render(tmp_path, name, messages, ask=ask) == by_llama_cpp(name, messages, ask), conversation


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_gpt_oss_has_harmonys_earlier_answers(conversation: str, tmp_path: Path) -> None:
    """Harmony ends an earlier answer by <|end|> and puts it into the channel `final`; llama.cpp does neither."""
    messages = CONVERSATIONS[conversation]
    for ask in (True, False):
        theirs = by_llama_cpp("gpt-oss", messages, ask)
        theirs = theirs.replace("assistant<|message|>", "assistant<|channel|>final<|message|>")
        assert render(tmp_path, "gpt-oss", messages, ask=ask) == theirs.replace("<|return|>", "<|end|>")


@pytest.mark.parametrize("conversation", [name for name in CONVERSATIONS if not name.startswith(("two", "ends"))])
def test_hunyuan_dense_names_the_assistant_once(conversation: str, tmp_path: Path) -> None:
    """llama.cpp writes the marker after a user's text and again before the answer, and whatever is asked for."""
    messages, marker = CONVERSATIONS[conversation], "<｜hy_Assistant｜>"
    theirs = by_llama_cpp("hunyuan-dense", messages).replace(marker * 2, marker)
    assert render(tmp_path, "hunyuan-dense", messages) == theirs
    assert render(tmp_path, "hunyuan-dense", messages, ask=False) == theirs.removesuffix(marker)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_yandex_keeps_the_system_text(conversation: str, tmp_path: Path) -> None:
    """llama.cpp drops it, for the format has no place for it; here it stands in the user's turn."""
    messages = CONVERSATIONS[conversation]
    merged = [message for message in messages if message.role != "system"]
    if len(merged) < len(messages):
        merged[0] = Message("user", f"{SYSTEM.content}\n\n{merged[0].content}")
    for ask in (True, False):
        assert render(tmp_path, "yandex", messages, ask=ask) == by_llama_cpp("yandex", merged, ask)


def test_no_message_is_dropped(tmp_path: Path) -> None:
    for name in template_names.names():
        text = render(tmp_path, name, CONVERSATIONS["long"])
        assert all(message.content.strip() in text for message in CONVERSATIONS["long"]), name


def test_the_tokenizer_adds_bos_once(shared: Path, tmp_path: Path) -> None:
    """<s>: before the first turn only where llama.cpp's text lacks it too, and as a token where a format repeats it."""
    from llamacli.engine.model import Model

    with Model(ModelOptions(shared / "data/vocab/ggml-vocab-llama-spm.gguf", vocab_only=True)) as model:
        counts = {}
        for name in ("llama2-sys", "llama2-sys-bos", "monarch", "gigachat"):
            source = template_names.source(name) or ""
            template = Template(source, special=model.special_tokens, remember=tmp_path)
            tokens = model.tokenize_prompt(template.render(CONVERSATIONS["answered"]))
            assert tokens[0] == model.bos
            counts[name] = tokens.count(model.bos)
    assert counts == {"llama2-sys": 1, "llama2-sys-bos": 2, "monarch": 4, "gigachat": 1}


def test_a_role_that_a_format_lacks_is_refused(tmp_path: Path) -> None:
    from llamacli.errors import BadModelFile

    with pytest.raises(BadModelFile, match="this format has no role tool"):
        render(tmp_path, "vicuna", [USER, Message("tool", "42")])
