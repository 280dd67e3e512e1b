"""A request as a model reads it: its chat template, its special tokens, and the tokens that end an answer.

What transformers and the templates of published models leave to chance is settled here, so that a comparison asks the
same today and tomorrow: thoughts are switched off where the template can, a date in a template is `DATE`, and a prompt
without a template never ends in the token that ends texts.
"""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError
from deltaw.prompts.thoughts import open_tags

DATE = datetime.datetime(2024, 7, 26)
"""The day that templates are told; they would print today's, and the same prompt would be another one tomorrow."""
SETTINGS: Mapping[str, Any] = {
    "enable_thinking": False,
    "thinking": False,
    "reasoning": False,
    "date_string": DATE.strftime("%d %b %Y"),
}
"""Given to every template; one that does not know a name ignores it."""
_NOW = re.compile(r"""\bstrftime_now\(\s*(["'])(.*?)\1\s*\)""")
_MARK = "kj5vq"  # no template says this itself


def load_tokenizer(directory: Path, package: Any) -> Any:
    """The tokenizer in a directory with its chat template, of whichever file. package: transformers."""
    words = package.AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    older = directory / "chat_template.json"  # transformers reads it for processors of images only
    if getattr(words, "chat_template", None) is None and older.is_file():
        try:
            words.chat_template = json.loads(older.read_text(encoding="utf-8"))["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise DeltawError(f"{older} holds no chat_template; restore or remove the file") from error
    return words


def chat_text(tokenizer: Any, directory: Path, request: str, prefill: str = "") -> str:
    """What the model reads: the request in the chat template, up to where the answer begins, and the prefill.

    A tokenizer without a template gets the request, a line break, and the prefill. Where the template leaves the model
    in its thoughts, a prefill comes after them: it begins the answer. DeltawError if the template fails, or leaves the
    request out.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return f"{request}\n{prefill}"
    text = _render(tokenizer, directory, request)
    tags = open_tags(text)
    if prefill and tags is not None:
        text = f"{text.rstrip()}\n\n{tags[1]}\n\n"
    return text + prefill


def _render(tokenizer: Any, directory: Path, request: str) -> str:
    """The request up to where the answer begins."""
    failure: Exception | None = None
    for content in (request, [{"type": "text", "text": request}]):
        try:
            text = _applied(tokenizer, [{"role": "user", "content": content}], add_generation_prompt=True)
        except Exception as error:  # a template can raise anything
            failure = failure or error
            continue
        if _holds(text, request):
            return text + _header(tokenizer, text, content)
    if failure is not None:
        raise _fails(directory, failure)
    raise DeltawError(
        f"the chat template in {directory} leaves out the request {request[:40]!r}; mend the template, or give another "
        "with --template"
    )


def _applied(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    template = tokenizer.chat_template
    template = template.get("default", template) if isinstance(template, dict) else template
    if isinstance(template, str):
        template = _NOW.sub(lambda call: json.dumps(DATE.strftime(call[2])), template)
        options["chat_template"] = template
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options, **SETTINGS)
    return text


def _fails(directory: Path, error: Exception) -> DeltawError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return DeltawError(
        f"the chat template in {directory} takes no request of a user: {reason}; mend the template, or give another "
        "with --template"
    )


def _holds(text: str, request: str) -> bool:
    """Whether a rendered prompt holds the request; templates may trim it."""
    return " ".join(request.split()) in " ".join(text.split())


def _header(tokenizer: Any, text: str, content: Any) -> str:
    """What stands before an answer in the template, where the template does not know `add_generation_prompt`."""
    asked = {"role": "user", "content": content}
    answer = _MARK if isinstance(content, str) else [{"type": "text", "text": _MARK}]
    try:
        if _applied(tokenizer, [asked], add_generation_prompt=False) != text:
            return ""
        answered = _applied(tokenizer, [asked, {"role": "assistant", "content": answer}], add_generation_prompt=False)
    except Exception:  # a template that takes requests alone
        return ""
    if not answered.startswith(text) or _MARK not in answered:
        return ""
    header = answered[len(text) : answered.index(_MARK)]
    return header if header.strip() else ""  # a space alone belongs to the first word of the answer


def end_of_turn(tokenizer: Any, known: Sequence[int]) -> int | None:
    """The special token that the template puts behind an answer, if none of the `known` ends stands there; else None.

    Checkpoints whose tokenizer names another end (that of texts) would go on with the user's next turn.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
    try:
        text = _applied(tokenizer, turns, add_generation_prompt=False)
    except Exception:  # a template that takes requests alone
        return None
    if _MARK not in text:
        return None
    tail: list[int] = tokenizer(text[text.rindex(_MARK) + len(_MARK) :], add_special_tokens=False)["input_ids"]
    if set(tail) & set(known):
        return None
    special = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return next((token for token in tail if token in special), None)


def token_ids(tokenizer: Any, directory: Path, text: str) -> list[int]:
    """Tokens of a text as `chat_text` gives it. A template holds its special tokens already; without one, the
    tokenizer's own come before the text, and none after it. DeltawError if there are no tokens.
    """
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if getattr(tokenizer, "chat_template", None) is None:
            ids = _opened(tokenizer(text)["input_ids"], ids, tokenizer.eos_token_id)
    except (TypeError, UnicodeError) as error:
        raise DeltawError(
            f"the prompt {text[:40]!r} is no text that a tokenizer can read (it holds half a character); write it anew"
        ) from error
    if not ids:
        raise DeltawError(f"the tokenizer of {directory} makes no tokens of {text[:40]!r}; give another prompt")
    return ids


def request_ids(tokenizer: Any, directory: Path, request: str) -> list[int]:
    """Tokens of a request as `chat_text` gives it, up to and with the one that holds its last character.

    What stands behind a request in the template is told from another request. DeltawError if the template changes the
    request, or the tokenizer does not know which characters its tokens hold.
    """
    text, other = (chat_text(tokenizer, directory, asked) for asked in (request, _MARK))
    behind = other[other.rindex(_MARK) + len(_MARK) :]
    upto = text.removesuffix(behind).rstrip()
    if not text.endswith(behind) or not upto.endswith(request.strip()):
        raise DeltawError(
            f"the chat template in {directory} changes the request {request[:40]!r}, so its end is unknown"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise DeltawError(
            f"the tokenizer in {directory} does not say which characters its tokens hold (it is not fast)"
        )
    ids = token_ids(tokenizer, directory, text)
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    before = len(ids) - len(spans)  # special tokens, where there is no template
    return ids[: before + sum(start < len(upto) for start, _ in spans)]


def text_ids(tokenizer: Any, text: str) -> tuple[list[int], int]:
    """Tokens of a text by itself, without a template: the tokenizer's own special tokens before it, none after it; and
    the place of the first token that a model can predict, which is not the special ones and needs one before it.
    """
    bare: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = _opened(tokenizer(text)["input_ids"], bare, tokenizer.eos_token_id)
    return whole, max(len(whole) - len(bare), 1)


def _opened(whole: list[int], bare: list[int], end: int | None) -> list[int]:
    """`whole` without the special tokens behind the text, which would end it before the answer."""
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[: start + len(bare)]
    while whole and whole[-1] == end:
        whole = whole[:-1]
    return whole
