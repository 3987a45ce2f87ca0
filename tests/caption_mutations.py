"""Captions files of every format, damaged at random: read as an independent reader reads them, or
refused; run by hand, a small sample is in the suite.

Command: PYTHONPATH=. python tests/caption_mutations.py [COUNT]   (500: a few seconds, no weights)
Expected: 0 silent wrong answers, 0 exceptions but CaptionError.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipguide.data.captions import CaptionError, read_captions

Pairs = list[tuple[str, str]]

TEXTS = [
    "a red square", 'a "green" square, on black', "ein Füchslein – 狐", "two\nlines", "a\u2028b",
    "x\x0b\x0c\x1c\x1d\x1e\x85y", 'inches 5" and 6"', "tab\tinside", "🦊", "a, b, c", "'quoted'",
]  # fmt: skip
NAMES = ["a.png", "s/a.png", "A.png", "é.png", "e\u0301.jpg", "c d.webp", "im0.png", "7.jpg"]
SPACE = " \t\r\n"


def sample(rng: random.Random) -> Pairs:
    return [(rng.choice(NAMES), rng.choice(TEXTS)) for _ in range(rng.randint(2, 7))]


# --- writers: the formats, by the standard library -----------------------------------------------


def write_csv(pairs: Pairs, rng: random.Random) -> str:
    buffer = io.StringIO(newline="")
    end = rng.choice(["\n", "\r\n", "\r"])
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    csv.writer(buffer, lineterminator=end, quoting=quoting).writerows(
        [("image", "caption"), *pairs]
    )
    return buffer.getvalue()


def write_tsv(pairs: Pairs, rng: random.Random) -> str:
    end = rng.choice(["\n", "\r\n", "\r"])
    rows = [(name, re.sub(r"[\t\n]", " ", text)) for name, text in pairs]
    return "".join("\t".join(row) + end for row in [("image", "caption"), *rows])


def dumps(value: object, rng: random.Random) -> str:
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def write_jsonl(pairs: Pairs, rng: random.Random) -> str:
    keys = rng.choice([("image", "caption"), ("file_name", "text"), ("file", "prompt")])
    return "".join(dumps(dict(zip(keys, pair, strict=True)), rng) + "\n" for pair in pairs)


def write_list(pairs: Pairs, rng: random.Random) -> str:
    return dumps([{"image": name, "caption": text} for name, text in pairs], rng)


def write_map(pairs: Pairs, rng: random.Random) -> str:
    texts: dict[str, list[str]] = {}
    for name, text in pairs:
        texts.setdefault(name, []).append(text)
    return dumps(texts, rng)


def write_coco(pairs: Pairs, rng: random.Random) -> str:
    names = [*dict.fromkeys(name for name, _ in pairs)]
    images = [{"id": place, "file_name": name} for place, name in enumerate(names)]
    notes = [{"image_id": names.index(name), "caption": text} for name, text in pairs]
    return dumps({"images": images, "annotations": notes}, rng)


def write_karpathy(pairs: Pairs, rng: random.Random) -> str:
    images = [{"filename": name, "sentences": [{"raw": text}]} for name, text in pairs]
    return dumps({"images": images}, rng)


WRITERS: dict[str, tuple[str, Callable[[Pairs, random.Random], str]]] = {
    "csv": (".csv", write_csv),
    "tsv": (".tsv", write_tsv),
    "jsonl": (".jsonl", write_jsonl),
    "list": (".json", write_list),
    "map": (".json", write_map),
    "coco": (".json", write_coco),
    "karpathy": (".json", write_karpathy),
}


# --- an independent reader ------------------------------------------------------------------------


def decode(data: bytes) -> str:
    """By Python's own codecs that look for a mark."""
    marks = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32"}
    marks |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    for mark, codec in marks.items():
        if data.startswith(mark):
            return data.decode(codec)
    return data.decode("utf-8-sig")


def slow_csv(text: str) -> list[list[str]]:
    """RFC 4180 letter by letter; ValueError for what its grammar does not derive."""
    rows: list[list[str]] = [[]]
    place, size = 0, len(text)
    while place <= size:
        start = place
        while text[place : place + 1] == " ":
            place += 1
        if text[place : place + 1] == '"':
            cell, place = "", place + 1
            while True:
                end = text.index('"', place)
                cell += text[place:end]
                place = end + 1
                if text[place : place + 1] != '"':
                    break
                cell, place = cell + '"', place + 1
            while text[place : place + 1] == " ":
                place += 1
        else:
            place = start
            while place < size and text[place] not in ",\r\n":
                place += 1
            cell = text[start:place]
            if '"' in cell:
                raise ValueError("a quote in a cell without quotes")
        rows[-1].append(cell)
        mark = text[place : place + 1]
        if mark == ",":
            place += 1
        elif mark in ("\r", "\n"):
            place += 2 if text[place : place + 2] == "\r\n" else 1
            rows.append([])
        elif place >= size:
            break
        else:
            raise ValueError("letters after a quoted cell")
    return rows


def table(rows: list[list[str]]) -> Pairs:
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    names = [name.strip() for name in rows[0]]
    if any(len(row) != len(names) for row in rows):
        raise ValueError("a row does not fit the header")
    keys = next(pair for pair in KEYS if set(pair) <= set(names))
    return [(row[names.index(keys[0])], row[names.index(keys[1])]) for row in rows[1:]]


KEYS = [("image", "caption"), ("file_name", "text"), ("file", "prompt")]


def of_row(row: dict[str, Any]) -> Pairs:
    name, caption = next(pair for pair in KEYS if set(pair) <= row.keys())
    texts = row[caption] if isinstance(row[caption], list) else [row[caption]]
    return [(row[name], text) for text in texts]


def of_json(value: Any) -> Pairs:
    if isinstance(value, list):
        return [pair for row in value for pair in of_row(row)]
    if isinstance(value.get("images"), list) and "annotations" in value:
        names = {image["id"]: image["file_name"] for image in value["images"]}
        return [(names[note["image_id"]], note["caption"]) for note in value["annotations"]]
    if isinstance(value.get("images"), list) and any("sentences" in i for i in value["images"]):
        images = value["images"]
        return [(i["filename"], one["raw"]) for i in images for one in i["sentences"]]
    return [pair for k, v in value.items() for pair in of_row({"image": k, "caption": v})]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def slow_read(data: bytes, suffix: str) -> Pairs:
    """What the file says; any exception where it says nothing for certain."""
    text = decode(data)
    if "\0" in text:
        raise ValueError("NUL")
    lines = re.split(r"\r\n|\r|\n", text)
    if suffix == ".csv":
        pairs = table(slow_csv(text))
    elif suffix == ".tsv":
        pairs = table([line.split("\t") for line in lines])
    elif suffix == ".jsonl":
        rows = [json.loads(line, object_pairs_hook=once) for line in lines if line.strip()]
        pairs = [pair for row in rows for pair in of_row(row)]
    else:
        pairs = of_json(json.loads(text, object_pairs_hook=once))
    for name, caption in pairs:
        assert name.strip()
        assert caption.strip()
        (name + caption).encode("utf-8")
    assert pairs
    return [(name.strip(SPACE), caption.strip(SPACE)) for name, caption in pairs]


# --- mutations ------------------------------------------------------------------------------------

INSERTED = [
    '"',
    ",",
    "\t",
    "\n",
    "\r",
    "\u2028",
    "\x85",
    "\0",
    "{",
    "}",
    "[",
    "]",
    "\\",
    ":",
    "\ufeff",
]


def mutate(data: bytes, encoding: str, rng: random.Random) -> bytes:
    kind = rng.choice(["letter", "letter", "drop", "drop", "bytes", "cut", "line", "twice", "none"])
    text = data.decode(encoding)
    place = rng.randrange(len(text))
    marks = [i for i, letter in enumerate(text) if letter in '",\t\n\r{}[]:']
    mark = rng.choice(marks)
    if kind == "letter":
        text = text[:place] + rng.choice(INSERTED) + text[place:]
    elif kind == "drop":
        text = text[:mark] + text[mark + 1 :]
    elif kind == "bytes":
        where = rng.randrange(len(data))
        return data[:where] + rng.randbytes(rng.randint(1, 3)) + data[where + 1 :]
    elif kind == "cut":
        return data[: rng.randrange(len(data))]
    elif kind in ("line", "twice"):
        lines = text.splitlines(keepends=True)
        row = rng.randrange(len(lines))
        lines[row : row + 1] = [] if kind == "line" else [lines[row]] * 2
        text = "".join(lines)
    return text.encode(encoding)


def outcome(seed: int, folder: Path) -> tuple[str, str]:
    """The format, and "same", "refused" or "stricter" (the slow reader reads it); or what is wrong:
    "silent" or the name of an exception."""
    rng = random.Random(seed)
    name = [*WRITERS][seed % len(WRITERS)]
    suffix, write = WRITERS[name]
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    data = mutate(write(sample(rng), rng).encode(encoding), encoding, rng)
    file = folder / f"c{suffix}"
    file.write_bytes(data)
    try:
        expected: Pairs | None = slow_read(data, suffix)
    except Exception:  # whatever it is: the file is damaged
        expected = None
    try:
        got = [(caption.image, caption.text) for caption in read_captions(file)]
    except CaptionError:
        return name, "refused" if expected is None else "stricter"
    except Exception as error:
        return name, type(error).__name__
    return name, "same" if got == expected else "silent"


def main(count: int) -> None:
    table: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(count):
            found = outcome(seed, Path(folder))
            table[found] += 1
            if found[1] not in ("same", "refused"):
                sys.stdout.write(f"seed {seed}: {found[0]} {found[1]}\n")
    for name in WRITERS:
        told = ", ".join(f"{n} {what}" for (of, what), n in sorted(table.items()) if of == name)
        sys.stdout.write(f"{name}: {told}\n")
    wrong = sum(n for (_, what), n in table.items() if what not in ("same", "refused", "stricter"))
    sys.stdout.write(f"{count} mutations: {wrong} silent wrong answers or other exceptions\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
