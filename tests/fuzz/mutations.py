"""Inputs that are nearly right: a valid one with a few things changed, by a seeded generator."""

import json
from random import Random
from typing import Any

TEXTS = (
    "", " ", "\x00", "\ud800", "\u2028", "\x1b[31m", "a\nb", "\r\n", "é", "𝔘", "x" * 300, "-", "--out", "NaN", "null",
    "../../x", "/fuzz/x", "..", ".", "~", "C:\\x", "a/b", "file:///x", "http://x/", "</script><script>x()</script>",
    "<!--<script>", '"><img src=x onerror=x()>', "{{ 7 * 7 }}", "${x}", "%s%n", "'; x", "a|b", "(a+)+$", "[", "\\",
    "quick", "base", "deltaw-model-99", "1e999", "-1", "0", "٣",
)  # fmt: skip
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    0.5,
    -0.0,
    1e-320,
    1e308,
    10**6,
    10**9,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63),
    10**19,
)
# What json.dumps cannot write; put in as text afterwards.
RAW = {
    "@deep": "[" * 90 + "]" * 90,
    "@deeper": '{"a":' * 2000 + "1" + "}" * 2000,
    "@deepest": "[" * 100_000,
    "@huge": "1" * 400,
    "@huger": "9" * 5000,
    "@inf": "1e999",
    "@nan": "NaN",
    "@infinity": "-Infinity",
}
PIECES = (
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\n", b"\n\n", b'"', b"\\", b"{", b"}", b"[", b"]",
    b",", b":", b"NaN", b"1e999", b"null", b"true", b"../../x", b"<script>", b"\\ud800", b"9" * 40, b"-", b";", b"->",
    b"|",
)  # fmt: skip


def scalar(rng: Random) -> Any:
    """A value that hardly any field expects."""
    return rng.choice(
        (
            lambda: rng.choice(TEXTS),
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(list(RAW)),
            lambda: rng.choice((None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": 1}}, [1, "x"])),
            lambda: rng.randint(-300, 300),
        )
    )()


def changed(rng: Random, value: Any) -> Any:
    """The JSON value with one thing in it replaced, dropped, doubled, renamed, wrapped or swapped."""
    spots: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            spots += [(holder, key) for key in keys]
            waiting += [holder[key] for key in keys]
    if not spots or rng.random() < 0.02:
        return scalar(rng)
    holder, key = rng.choice(spots)
    old = holder[key]
    what = rng.random()
    if what < 0.55:
        holder[key] = scalar(rng)
    elif what < 0.65:
        del holder[key]
    elif what < 0.7:
        holder[key] = [old]
    elif what < 0.78 and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = rng.choice((-old, old + 1, old * 10**6, str(old), float(old)))
    elif what < 0.86 and isinstance(old, str):
        holder[key] = rng.choice((old + rng.choice(TEXTS), old[:-1], rng.choice(TEXTS) + old, old.upper()))
    elif what < 0.93 and isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = holder.pop(key)
    else:
        other, place = rng.choice(spots)
        if isinstance(other, dict) or place < len(other):
            holder[key] = json.loads(json.dumps(other[place])) if not _has(other[place], holder) else scalar(rng)
    return value


def _has(value: Any, holder: Any) -> bool:
    return value is holder or (
        isinstance(value, dict | list)
        and any(_has(inner, holder) for inner in (value.values() if isinstance(value, dict) else value))
    )


def some_changes(rng: Random, value: Any) -> Any:
    """One to three changes to a copy of the value."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = changed(rng, value)
    return value


def written(rng: Random, value: Any) -> bytes:
    """The JSON value as a file's bytes, sometimes damaged as bytes."""
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    data = text.encode("utf-8", "surrogatepass")
    return damaged(rng, data) if rng.random() < 0.15 else data


def damaged(rng: Random, data: bytes) -> bytes:
    """One to three of: a flipped bit, a truncation, a piece taken out, doubled, moved or put in; ends of lines."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        end = min(end, at + 60)
        match rng.randrange(8):
            case 0 if data:
                place = rng.randrange(len(data))
                data = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + data[end:]
            case 3:
                data = data[:end] + data[at:]
            case 4:
                place = rng.randint(0, len(data))
                data = data[:place] + data[at:end] + data[place:]
            case 5:
                data = data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\x00", b"")))
            case 6:
                data = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\n")) + data
            case _:
                data = data[:at] + rng.choice(PIECES) + data[at:]
    return data


def json_file(rng: Random, value: Any) -> bytes:
    """A JSON file that is nearly `value`."""
    return written(rng, some_changes(rng, value))


def json_lines(rng: Random, records: list[Any]) -> bytes:
    """A file of JSON lines that is nearly `records`: one line changed, then sometimes the whole."""
    lines = [json.dumps(record).encode() for record in records]
    place = rng.randrange(len(lines))
    lines[place] = json_file(rng, records[place])
    match rng.randrange(8):
        case 0:
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
        case 1:
            del lines[rng.randrange(len(lines))]
        case 2:
            rng.shuffle(lines)
    data = b"\n".join(lines) + rng.choice((b"\n", b"\n", b"", b"\n\n"))
    return damaged(rng, data) if rng.random() < 0.15 else data
