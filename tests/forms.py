"""Chat templates of many forms, written here from their documented rules: published ones and odd ones, with what is to be found of each."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests import tiny

IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
LOOP = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
BEGIN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
ALTERNATE = (
    "{% set rest = messages[1:] if messages[0]['role'] == 'system' else messages %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


@dataclass(frozen=True)
class Form:
    """A template and its tokenizer. `begins`: how prompts end. `refused`: the message that has to come; `noted`: notes that have to."""

    template: Any
    special: tuple[str, ...] = IM
    bos: str | None = None
    eos: str | None = "<|im_end|>"
    pad: str | None = None
    system: bool = True
    alternation: bool = False
    begins: str = "<|im_start|>assistant\n"
    end: str | None = "<|im_end|>"
    refused: str = ""
    noted: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # special tokens that are plain words

    def tokenizer(self) -> Any:
        """A byte-level tokenizer with the special tokens behind the ordinary ones (save those that are ordinary words too)."""
        from transformers import PreTrainedTokenizerFast

        named = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        fast = PreTrainedTokenizerFast(
            tokenizer_object=copy.deepcopy(ordinary()),
            additional_special_tokens=list(self.special),
            **{key: token for key, token in named.items() if token},
        )
        fast.chat_template = self.template
        return fast


@lru_cache
def ordinary() -> Any:
    """The tokenizer without special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    bpe.train_from_iterator(tiny.CORPUS, trainer)
    return bpe


def _file(kind: str, **more: Any) -> Form:
    """One of tests/templates."""
    special = tiny.SPECIALS[kind]
    tokens = tuple(token for token in (special["bos_token"], special["eos_token"], *special["more"]) if token)
    text = (tiny.TEMPLATES / f"{kind}.jinja").read_text("utf-8")
    return Form(text, tokens, special["bos_token"], special["eos_token"], **more)


def _odd(name: str) -> str:
    """A template that can be put onto a copy of a real model too (see `put_on`)."""
    return (tiny.TEMPLATES / "odd" / f"{name}.jinja").read_text("utf-8")


def put_on(model: Path, name: str, folder: Path) -> Path:
    """A model's folder again (its files linked) in `folder`, with an odd template."""
    folder.mkdir(parents=True)
    for file in model.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).symlink_to(file.resolve())
    (folder / "chat_template.jinja").write_text(_odd(name), "utf-8")
    return folder


def _header(role: str, after: str = "") -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{after}"


PUBLISHED: dict[str, Form] = {
    "llama2": Form(
        ALTERNATE + "{% for m in rest %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.first and messages|length != "
        "rest|length %}{{ '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' }}{% endif %}{{ m['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "<unk>"), "<s>", "</s>", alternation=True, begins=" [/INST]", end="</s>",
    ),
    "llama3": _file("llama3", begins=_header("assistant"), end="<|eot_id|>"),
    "llama3_1": _file("llama3_1", begins=_header("assistant"), end="<|eot_id|>"),
    "mistral_v1": Form(
        ALTERNATE + NO_SYSTEM + "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "<unk>"), "<s>", "</s>", system=False, alternation=True, begins=" [/INST]", end="</s>",
    ),
    "mistral_v3": Form(  # the system text stands before the last user message
        ALTERNATE + "{{ bos_token }}{% for m in rest %}{% if m['role'] == 'user' %}{{ '[INST] ' }}{% if loop.last and messages|length != "
        "rest|length %}{{ messages[0]['content'] + '\n\n' }}{% endif %}{{ m['content'] + '[/INST]' }}{% else %}"
        "{{ ' ' + m['content']|trim + eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", alternation=True, begins="[/INST]", end="</s>",
    ),
    "mistral_v7": Form(
        ALTERNATE + "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + m['content'] + "
        "'[/SYSTEM_PROMPT]' }}{% elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}"
        "{% else %}{{ m['content'] + eos_token }}"
        "{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "<s>", "</s>", alternation=True, begins="[/INST]",
        end="</s>",
    ),
    "mixtral": _file("mixtral", system=False, alternation=True, begins=" [/INST]", end="</s>"),
    "chatml": Form(LOOP + BEGIN),
    "qwen2_5": _file("qwen2_5"),
    "qwen3": _file("qwen3"),
    "qwen3_switch": Form(
        LOOP + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
        begins="<|im_start|>assistant\n<think>\n\n</think>\n\n", noted=(r"asked not to think .*enable_thinking=False",),
    ),
    "r1_distill": Form(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% elif m['role'] == 'user' %}"
        "{{ '<｜User｜>' + m['content'] }}{% else %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end｜>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        ("<｜begin｜>", "<｜end｜>", "<｜User｜>", "<｜Assistant｜>"), "<｜begin｜>", "<｜end｜>",
        begins="<｜Assistant｜><think>\n\n</think>\n\n",
        end="<｜end｜>", noted=("begins every answer inside a thinking block",),
    ),
    "v3_1": Form(
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ m['content'] }}{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
        "{% else %}{{ '<｜Assistant｜></think>' + m['content'] + '<｜end｜>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}",
        ("<｜begin｜>", "<｜end｜>", "<｜User｜>", "<｜Assistant｜>"), "<｜begin｜>", "<｜end｜>",
        begins="<｜Assistant｜></think>", end="<｜end｜>",
        noted=(r"asked not to think .*thinking=False",),
    ),
    "glm": Form(
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|assistant|>' }}{% if enable_thinking is defined and not enable_thinking %}{{ '\n<think></think>' }}{% endif %}{% endif %}",
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"), None, "<|endoftext|>",
        begins="<|assistant|>\n<think></think>", end="<|user|>",
    ),
    "gemma2": Form(
        NO_SYSTEM + ALTERNATE + "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else "
        "m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", system=False, alternation=True,
        begins="<start_of_turn>model\n", end="<end_of_turn>",
    ),
    "gemma3": Form(  # strings or parts; the system text begins the first user message
        ALTERNATE + "{{ bos_token }}{% for m in rest %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
        "{% if loop.first and messages|length != rest|length %}{{ (messages[0]['content'] if messages[0]['content'] is string else "
        "messages[0]['content'][0]['text']) + '\n\n' }}{% endif %}{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}"
        "{% for part in m['content'] %}{{ part['text'] | trim }}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", alternation=True, begins="<start_of_turn>model\n",
        end="<end_of_turn>",
    ),
    "phi3": Form(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), None, "<|endoftext|>", begins="<|assistant|>\n",
        end="<|end|>",
    ),
    "phi4": Form(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        (*IM, "<|im_sep|>"), None, "<|endoftext|>", begins="<|im_start|>assistant<|im_sep|>",
    ),
    "zephyr": Form(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "<unk>"), "<s>", "</s>", begins="<|assistant|>\n", end="</s>",
    ),
    "vicuna": Form(
        "{{ bos_token }}{% if messages[0]['role'] != 'system' %}{{ 'A chat.' }}{% endif %}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ m['content'] }}{% elif m['role'] == 'user' %}{{ ' USER: ' + m['content'] }}"
        "{% else %}{{ ' ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}",
        ("<s>", "</s>", "<unk>"), "<s>", "</s>", begins=" ASSISTANT:", end="</s>",
    ),
    "alpaca": Form(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}{% elif m['role'] == 'user' %}"
        "{{ '### Instruction:\n' + m['content'] + '\n\n' }}{% else %}{{ '### Response:\n' + m['content'] + eos_token + '\n\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
        ("<s>", "</s>", "<unk>"), "<s>", "</s>", begins="### Response:\n", end="</s>",
    ),
    "olmo2": Form(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + eos_token }}"
        "{% if not loop.last %}{{ '\n' }}{% endif %}{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        ("<|endoftext|>", "<|pad|>"), "<|endoftext|>", "<|endoftext|>", "<|pad|>", begins="<|assistant|>\n", end="<|endoftext|>",
    ),
    "granite": Form(
        "{% if messages[0]['role'] != 'system' %}{{ '<|start_of_role|>system<|end_of_role|>Today is ' + strftime_now('%B %d, %Y') + "
        "'.<|end_of_text|>\n' }}{% endif %}{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + "
        "'<|end_of_text|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), "<|end_of_text|>", "<|end_of_text|>",
        begins="<|start_of_role|>assistant<|end_of_role|>", end="<|end_of_text|>",
    ),
    "command_r": Form(
        "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' + {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', "
        "'system': '<|SYSTEM_TOKEN|>'}[m['role']] + m['content'] | trim + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
        ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", begins="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", end="<|END_OF_TURN_TOKEN|>",
    ),
    "falcon": Form(  # no end token but the tokenizer's own
        "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{{ m['role'] | capitalize + ': ' + m['content'] | trim }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '\nAssistant:' }}{% endif %}",
        ("<|endoftext|>", ">>TITLE<<", ">>QUESTION<<"), None, "<|endoftext|>", begins="\nAssistant:", end=None,
    ),
    "open_assistant": Form(
        "{% for m in messages %}"
        "{{ {'user': '<|prompter|>', 'assistant': '<|assistant|>', 'system': '<|system|>'}[m['role']] + m['content'] "
        "+ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        ("<|prompter|>", "<|assistant|>", "<|system|>", "<|endoftext|>", "<|padding|>"), "<|endoftext|>", "<|endoftext|>", "<|padding|>",
        begins="<|assistant|>", end="<|endoftext|>",
    ),
    "smollm": _file("smollm"),
    "harmony": Form(

               "{{ '<|start|>system<|message|>You are a model.\nCurrent date: ' + strftime_now('%Y-%m-%d') + '\nReasoning: ' + "
        "(reasoning_effort if "
        "reasoning_effort is defined else 'medium') + '<|end|>' }}{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ '<|start|>developer<|message|># Instructions\n\n' + m['content'] + '<|end|>' }}{% elif m['role'] == 'user' %}"
        "{{ '<|start|>user<|message|>' + m['content'] + '<|end|>' }}{% else %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] "
        "+ ('<|return|>' if loop.last and not add_generation_prompt else '<|end|>') }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"), None, "<|return|>",
        begins="<|start|>assistant<|channel|>final<|message|>", end="<|return|>", noted=("reasoning_effort=low",),
    ),
    "magistral": Form(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}"
        "{% elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}{% else %}"
        "{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[THINK]' }}{% endif %}",
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"), "<s>", "</s>",
        begins="[/INST][THINK][/THINK]", end="</s>", noted=("ended at once",),
    ),
}  # fmt: skip

ODD: dict[str, Form] = {
    "parts": Form(_odd("parts"), noted=("takes the text of all roles as a list of parts",)),
    "parts_of_the_user": Form(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'user' %}{{ m['content'][0]['text'] }}{% else %}"
        "{{ m['content'] | trim }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}" + BEGIN,
        noted=("takes the text of user as a list of parts",),
    ),
    "no_gen": Form(_odd("no_gen"), noted=(r"begins no answer; '<\|im_start\|>assistant\\n', seen",)),
    "no_gen_words": Form(
        "{% for m in messages %}{{ m['role'] | upper + ': ' + m['content'] + (eos_token if m['role'] == 'assistant' else '') + '\n' }}"
        "{% endfor %}",
        begins="ASSISTANT:", noted=("begins no answer; 'ASSISTANT:'",),
    ),
    "raises_on_blank": Form(_odd("raises_on_blank"), noted=(r"refuses a blank message, in whose place stands \(no answer\)",)),
    "last_is_the_users": Form(
        "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('the last message must be from the user') }}{% endif %}" + LOOP + BEGIN,
        noted=("refuses a last message of the assistant",),
    ),
    "dated": Form("{{ 'It is ' + strftime_now('%H:%M, %-d %b %Y') + '\n' }}" + LOOP + BEGIN),
    "escapes": Form(LOOP.replace("m['content']", "m['content'] | replace('<', '&lt;')") + BEGIN, noted=("changes texts",)),
    "exclamation_pad": Form(LOOP + BEGIN, pad="!", words=("!",)),
    "human_with_a_space": Form(LOOP + BEGIN, (*IM, " Human:", " ки"), words=(" Human:", " ки")),
    "roles_are_words": Form(
        "{% for m in messages %}{{ {'user': 'User:', 'assistant': 'Helper:', 'system': 'Rules:'}[m['role']] + ' ' + m['content'] + "
        "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Helper:' }}{% endif %}",
        (*IM, "User:", "Helper:", "Rules:"), begins="Helper:", words=("User:", "Helper:", "Rules:"),
    ),
    "no_pad_no_end": Form(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
        (), None, None, begins="assistant:", end=None, noted=("no end token is known",),
    ),
    "end_only_in_the_template": Form(LOOP + BEGIN, eos=None),
    "end_that_is_not_there": Form(LOOP.replace("'<|im_end|>\n'", "eos_token + '\n'") + BEGIN, IM[:1], eos=None, end="<|im_start|>"),
    "drops_the_system_text": Form(
        LOOP.replace("messages %}", "messages if m['role'] != 'system' %}") + BEGIN, system=False,
    ),
    "opens_think": Form(
        _odd("opens_think"), begins="<|im_start|>assistant\n<think>\n\n</think>\n\n", noted=("ended at once",),
    ),
    "swallows_the_assistant": Form(
        LOOP.replace("messages %}", "messages if m['role'] != 'assistant' %}") + BEGIN,
        refused="leaves out the assistant's text in a chat of user, assistant, user, assistant, user;",
    ),
    "last_turn_only": Form(LOOP.replace("messages %}", "messages[-1:] %}") + BEGIN, refused="leaves out the user's text"),
    "capitals": Form(LOOP.replace("m['content']", "m['content'] | upper") + BEGIN, refused="changes the case of the user's text"),
    "reorders": Form(LOOP.replace("messages %}", "messages | sort(attribute='role') %}") + BEGIN, refused="in another order"),
    "raises_always": Form("{{ raise_exception('not for chats') }}", refused=r"fails on a single user message \(not for chats\)"),
    "no_syntax": Form("{% for m in messages %}{{ m['content'] }", refused="fails on a single user message"),
    "empty_of_texts": Form("{{ bos_token }}Hello.", bos="<|endoftext|>", refused="leaves out the user's text"),
    "begins_nowhere": Form(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{{ messages|length }}",
        refused="begins no answer of the assistant",
    ),
    "none": Form(None, refused="has no chat template"),
    "none_by_default": Form({"tool_use": LOOP, "rag": LOOP}, refused="none is called default"),
}  # fmt: skip
FORMS = PUBLISHED | ODD
