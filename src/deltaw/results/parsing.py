"""JSON from files, which anybody may have written: what Python's reader lets through and later code stumbles over is
refused here, as a ValueError with the reason.
"""

import json
import math
import re
from typing import Any, NoReturn

DEEPEST = 64
"""Lists and objects inside each other. deltaw's own files have fewer than ten."""
_LARGEST = 2**63  # counts are 64-bit where they are tabulated
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, foreign: bool = False) -> Any:
    """The value of a JSON text. ValueError for what is not JSON, is nested too deeply or holds half a surrogate pair.

    NaN, infinities and integers beyond 64 bits are refused as well, unless the file is `foreign`: Hugging Face's
    configurations have them.
    """
    hooks: dict[str, Any] = (
        {} if foreign else {"parse_constant": _refuse_constant, "parse_int": _integer, "parse_float": _finite}
    )
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise ValueError(f"its lists and objects are nested more than {DEEPEST} deep") from None
    if text.count("[") + text.count("{") > DEEPEST or _ESCAPED_SURROGATE.search(text):
        _check(value)
    return value


def _check(value: Any) -> None:
    """Level by level, since a recursive walk would have the fault that it looks for."""
    level = [value]
    for _ in range(DEEPEST + 1):
        for item in level:
            for text in (item,) if isinstance(item, str) else item if isinstance(item, dict) else ():
                if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
                    raise ValueError(f"the string {text[:40]!a} holds half a surrogate pair, which is no text")
        level = [
            inner
            for item in level
            if isinstance(item, list | dict)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError(f"its lists and objects are nested more than {DEEPEST} deep")


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST <= (number := int(digits)) < _LARGEST:
        raise ValueError(f"the integer {digits[:20]}… does not fit 64 bits")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is not a finite number")
    return number
