"""Chat templates by name, for files that came without their own: the formats that llama.cpp knows.

A format is a row of what surrounds each role's text and what the answer begins with; the Jinja template is made from
it. The texts are those of `llama_chat_apply_template` (llama.cpp's `src/llama-chat.cpp`), with which a test compares
them. BOS is left to the tokenizer, save where a format writes it inside a conversation too.

In a row, `{}` is the message's text, `{trim}` the same without white space around it, `{role}` the message's role, and
`{system}` in a user's turn the system text that waited for it. `{% … %}` is Jinja.
"""

from __future__ import annotations

import json
import re


def names() -> list[str]:
    """The known formats, in alphabetical order."""
    return sorted(_FORMATS)


def source(name: str) -> str | None:
    """The Jinja template of a format, whose name may be in any case; None where no format has that name."""
    return _FORMATS.get(name.lower())


_EXPRESSIONS = {
    "{}": "m.content",
    "{trim}": "m.content | trim",
    "{role}": "m.role",
    "{system}": "ns.system ~ '\\n\\n' if ns.system else ''",
}
_PARTS = re.compile(r"(\{(?:|trim|role|system)\}|\{%.*?%\})")

_UNKNOWN = "{% set _ = raise_exception('this format has no role ' ~ m.role) %}"


def _jinja(row: str) -> str:
    """Everything but placeholders and `{% … %}` as string literals: Jinja drops a newline after a block."""
    parts = [part for part in _PARTS.split(row) if part]
    return "".join(
        part if part.startswith("{%") else "{{ " + _EXPRESSIONS.get(part, json.dumps(part)) + " }}" for part in parts
    )


def _same(each: str, answer: str, *, start: str = "", turn: str = "") -> str:
    """A format that treats all roles alike. `start` stands before the messages, `turn` before each."""
    return (
        f"{_jinja(start)}{{% for m in messages %}}{_jinja(turn)}{_jinja(each)}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{_jinja(answer)}{{% endif %}}"
    )


def _roles(system: str, user: str, assistant: str, answer: str = "", *, start: str = "", turn: str = "") -> str:
    """A format with a row for each role. System text waits where the user's turn has a place for it."""
    if "{system}" in user:
        start += "{% set ns = namespace(system='') %}"
        system = f"{{% set ns.system = ns.system ~ ({_EXPRESSIONS[system]}) %}}"
        user += "{% set ns.system = '' %}"
    return _same(
        f"{{% if m.role == 'system' %}}{system}{{% elif m.role == 'user' %}}{user}"
        f"{{% elif m.role == 'assistant' %}}{assistant}{{% else %}}{_UNKNOWN}{{% endif %}}",
        answer,
        start=start,
        turn=turn,
    )


def _opens(first: str, later: str | None = None) -> str:
    """What opens an exchange: the first message, and the one after an answer."""
    return (
        f"{{% if loop.first %}}{first}{{% elif loop.previtem.role == 'assistant' %}}"
        f"{first if later is None else later}{{% endif %}}"
    )


def _without_system(text: str) -> str:
    return f"{{% if messages[0].role != 'system' %}}{text}{{% endif %}}"


_LLAMA_2_SYSTEM = "<<SYS>>\n{}\n<</SYS>>\n\n"
_GRANITE = _same(
    "<|start_of_role|>{role}<|end_of_role|>{}<|end_of_text|>\n", "<|start_of_role|>assistant<|end_of_role|>"
)
_EXAONE = _roles(
    "[|system|]{trim}[|endofturn|]\n", "[|user|]{trim}\n", "[|assistant|]{trim}[|endofturn|]\n", "[|assistant|]"
)

_FORMATS = {
    "bailing": _roles(
        "<role>SYSTEM</role>{}", "<role>HUMAN</role>{}", "<role>ASSISTANT</role>{}", "<role>ASSISTANT</role>"
    ),
    "bailing-think": _roles(
        "<role>SYSTEM</role>{}", "<role>HUMAN</role>{}", "<role>ASSISTANT</role>{}", "<role>ASSISTANT</role><think>"
    ),
    "bailing2": _roles(
        "<role>SYSTEM</role>{}<|role_end|>",
        "<role>HUMAN</role>{}<|role_end|>",
        "<role>ASSISTANT</role>{}<|role_end|>",
        "<role>ASSISTANT</role>",
        start=_without_system("<role>SYSTEM</role>detailed thinking off<|role_end|>"),
    ),
    "chatglm3": _same("<|{role}|>\n {}", "<|assistant|>", start="[gMASK]sop"),
    "chatglm4": _same("<|{role}|>\n{}", "<|assistant|>\n", start="[gMASK]<sop>"),
    "chatml": _same("<|im_start|>{role}\n{}<|im_end|>\n", "<|im_start|>assistant\n"),
    "command-r": _roles(
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{trim}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{trim}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{trim}<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "deepseek": _roles("{}", "### Instruction:\n{}\n", "### Response:\n{}\n<|EOT|>\n", "### Response:\n"),
    "deepseek-ocr": _same("{}", ""),
    "deepseek2": _roles("{}\n\n", "User: {}\n\n", "Assistant: {}<｜end▁of▁sentence｜>", "Assistant:"),
    "deepseek3": _roles("{}\n\n", "<｜User｜>{}", "<｜Assistant｜>{}<｜end▁of▁sentence｜>", "<｜Assistant｜>"),
    "exaone-moe": _same("<|{role}|>\n{trim}<|endofturn|>\n", "<|assistant|>\n"),
    "exaone3": _EXAONE,
    "exaone4": _EXAONE,
    "falcon3": _same("<|{role}|>\n{}\n", "<|assistant|>\n"),
    "gemma": _roles(
        "{trim}",
        "<start_of_turn>user\n{system}{trim}<end_of_turn>\n",
        "<start_of_turn>model\n{trim}<end_of_turn>\n",
        "<start_of_turn>model\n",
    ),
    "gigachat": _roles(
        "{}<|message_sep|>",
        "user<|role_sep|>{}<|message_sep|>available functions<|role_sep|>[]<|message_sep|>",
        "assistant<|role_sep|>{}<|message_sep|>",
        "assistant<|role_sep|>",
        start="<s>",
    ),
    "glmedge": _same("<|{role}|>\n{}", "<|assistant|>"),
    # llama.cpp ends earlier answers by <|return|> and names no channel; OpenAI's Harmony keeps that token for the very
    # end, and an answer stands in the channel `final`.
    "gpt-oss": _roles(
        "<|start|>system<|message|>{}<|end|>",
        "<|start|>user<|message|>{}<|end|>",
        "<|start|>assistant<|channel|>final<|message|>{}<|end|>",
        "<|start|>assistant",
    ),
    "granite": _GRANITE,
    "granite-4.0": _GRANITE,
    "granite-4.1": _GRANITE,
    "grok-2": _roles(
        "System: {trim}<|separator|>\n\n",
        "Human: {trim}<|separator|>\n\n",
        "Assistant: {}<|separator|>\n\n",
        "Assistant:",
    ),
    # llama.cpp writes <｜hy_Assistant｜> twice before an earlier answer: once for the user's turn, once for its own.
    "hunyuan-dense": _roles(
        "{}<｜hy_place▁holder▁no▁3｜>",
        "<｜hy_User｜>{}",
        "<｜hy_Assistant｜>{}<｜hy_place▁holder▁no▁2｜>",
        "<｜hy_Assistant｜>",
    ),
    "hunyuan-moe": _roles("<|startoftext|>{}<|extra_4|>", "<|startoftext|>{}<|extra_0|>", "{}<|eos|>"),
    "hunyuan-vl": _roles(
        "{}<｜hy_place▁holder▁no▁3｜>", "{}<｜hy_User｜>", "{}<｜hy_Assistant｜>", start="<｜hy_begin▁of▁sentence｜>"
    ),
    "kimi-k2": _roles(
        "<|im_system|>system<|im_middle|>{}<|im_end|>",
        "<|im_user|>user<|im_middle|>{}<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>{}<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>",
    ),
    "llama2": _roles("{}\n", "{} [/INST]", "{}</s>", turn=_opens("[INST] ")),
    "llama2-sys": _roles(_LLAMA_2_SYSTEM, "{} [/INST]", "{}</s>", turn=_opens("[INST] ")),
    "llama2-sys-bos": _roles(_LLAMA_2_SYSTEM, "{} [/INST]", "{}</s>", turn=_opens("[INST] ", "<s>[INST] ")),
    "llama2-sys-strip": _roles(
        _LLAMA_2_SYSTEM.replace("{}", "{trim}"), "{trim} [/INST]", "{trim}</s>", turn=_opens("[INST] ")
    ),
    "llama3": _same(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{trim}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "llama4": _same(
        "<|header_start|>{role}<|header_end|>\n\n{trim}<|eot|>", "<|header_start|>assistant<|header_end|>\n\n"
    ),
    "megrez": _same("<|role_start|>{role}<|role_end|>{}<|turn_end|>", "<|role_start|>assistant<|role_end|>"),
    "minicpm": _roles("{trim}", "<用户>{trim}<AI>", "{trim}"),
    "mistral-v1": _roles("{}\n\n", "{} [/INST]", " {}</s>", turn=_opens(" [INST] ")),
    "mistral-v3": _roles("{}\n\n", "{}[/INST]", " {trim}</s>", turn=_opens("[INST] ")),
    "mistral-v3-tekken": _roles("{}\n\n", "{}[/INST]", "{}</s>", turn=_opens("[INST]")),
    "mistral-v7": _roles("[SYSTEM_PROMPT] {}[/SYSTEM_PROMPT]", "[INST] {}[/INST]", " {}</s>"),
    "mistral-v7-tekken": _roles("[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]", "[INST]{}[/INST]", "{}</s>"),
    "monarch": _same("{role}\n{}</s>\n", "<s>assistant\n", turn="{% if not loop.first %}<s>{% endif %}"),
    "openchat": _roles(
        "{}<|end_of_turn|>",
        "GPT4 Correct User: {}<|end_of_turn|>",
        "GPT4 Correct Assistant: {}<|end_of_turn|>",
        "GPT4 Correct Assistant:",
    ),
    "orion": _roles("{}", "Human: {system}{}\n\nAssistant: </s>", "{}</s>"),
    "pangu-embedded": _roles(
        "[unused9]系统：{}[unused10]",
        "[unused9]用户：{}[unused10]",
        "[unused9]助手：{}[unused10]",
        "[unused9]助手：",
        start=_without_system("[unused9]系统：[unused10]"),
    ),
    "phi3": _same("<|{role}|>\n{}<|end|>\n", "<|assistant|>\n"),
    "phi4": _same("<|im_start|>{role}<|im_sep|>{}<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
    "rwkv-world": _roles(
        "System: {trim}\n\n",
        "User: {trim}\n\n{% if loop.last %}Assistant:{% endif %}",
        "Assistant: {trim}\n\n",
    ),
    "seed_oss": _roles(
        "<seed:bos>system\n{}<seed:eos>",
        "<seed:bos>user\n{}<seed:eos>",
        "<seed:bos>assistant\n{trim}<seed:eos>",
        "<seed:bos>assistant\n",
    ),
    "smolvlm": _roles(
        "{}\n\n",
        "User: {}<end_of_utterance>\n",
        "Assistant: {}<end_of_utterance>\n",
        "Assistant:",
        start="<|im_start|>",
    ),
    "solar-open": _same("<|begin|>{role}<|content|>{}<|end|>", "<|begin|>assistant"),
    "vicuna": _roles("{}\n\n", "USER: {}\n", "ASSISTANT: {}</s>\n", "ASSISTANT:"),
    "vicuna-orca": _roles("SYSTEM: {}\n", "USER: {}\n", "ASSISTANT: {}</s>\n", "ASSISTANT:"),
    # No system role: llama.cpp drops the text, here it moves into the user's turn (`template_jinja`).
    "yandex": _roles("", " Пользователь: {}\n\n", " Ассистент: {}\n\n", " Ассистент:[SEP]"),
    "zephyr": _same("<|{role}|>\n{}<|endoftext|>\n", "<|assistant|>\n"),
}
