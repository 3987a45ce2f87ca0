"""PNG metadata: what we write, Pillow and other tools read; hostile chunks are refused cheaply."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clipguide.images import ImageError, load_image
from clipguide.report.metadata import (
    Parameters,
    format_parameters,
    parse_parameters,
    read_metadata,
    save_png,
)
from clipguide.report.png_text import MAX_TEXT_BYTES, MetadataError, read_png_text

# As written by AUTOMATIC1111's web UI 1.9 (its own documentation's example, shortened).
FROM_A1111 = """a photo of an (astronaut:1.2), riding a horse
on the moon
Negative prompt: blurry, lowres
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: d8691b4d16, \
Model: dream, Lora hashes: "add: 7df2, more: 91aa", Version: v1.9.4"""


def chunk(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return struct.pack(">I", size) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(path: Path, *chunks: bytes) -> Path:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


END = chunk(b"IEND", b"")


def test_a1111_text_is_taken_apart() -> None:
    parameters = parse_parameters(FROM_A1111)
    assert parameters.prompt == "a photo of an (astronaut:1.2), riding a horse\non the moon"
    assert parameters.negative == "blurry, lowres"
    assert parameters.fields["Sampler"] == "Euler a"
    assert parameters.fields["Seed"] == "965400086"
    assert parameters.fields["Lora hashes"] == "add: 7df2, more: 91aa"
    assert list(parameters.fields)[-1] == "Version"


def test_a1111_text_is_written_as_it_was() -> None:
    assert format_parameters(parse_parameters(FROM_A1111)) == FROM_A1111


BROKEN = {
    "a break in a value": '"l1\nl2"',
    "two of them": '"l1\n\nl2: x, y\n"',
    "a quote and a break": '"a \\"b\\"\nc"',
    "what looks like the negative": '"x\nNegative prompt: y"',
    "a Windows break": '"l1\r\nl2"',
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("order", [0, 2, 4])
def test_a_break_in_a_quoted_field_loses_nothing(name: str, order: int) -> None:
    fields = ["Steps: 20", "Sampler: Euler a", "Seed: 7", "Size: 64x48"]
    fields.insert(order, f"Wildcard: {BROKEN[name]}")
    text = "a fox,\non the moon\nNegative prompt: bad\nworse\n" + ", ".join(fields)
    parameters = parse_parameters(text)
    assert parameters.prompt == "a fox,\non the moon"
    if "Negative" not in BROKEN[name]:
        assert parameters.negative == "bad\nworse"
    assert [parameters.fields[key] for key in ("Steps", "Seed", "Size")] == ["20", "7", "64x48"]
    assert parameters.fields["Wildcard"] == json.loads(BROKEN[name], strict=False)
    assert parse_parameters(format_parameters(parameters)) == parameters


def test_many_lines_cost_no_more_than_one_pass() -> None:
    text = 'a: "b\n' * 500_000
    assert parse_parameters(text).fields == {}


def test_a_prompt_without_fields_stays_whole() -> None:
    assert parse_parameters("a cat: grey, a dog").prompt == "a cat: grey, a dog"


words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9)
values = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "))
keys = st.text("abcdefgh XYZ", min_size=1).map(str.strip).filter(bool)


@given(st.lists(words, min_size=1), st.dictionaries(keys, values.map(str.strip), min_size=3))
def test_parameters_round_trip(prompt: list[str], fields: dict[str, str]) -> None:
    parameters = Parameters(" ".join(prompt), "a cat", fields)
    if not parameters.prompt.startswith("Negative prompt:"):
        assert parse_parameters(format_parameters(parameters)) == parameters


def test_pillow_reads_what_we_write(tmp_path: Path) -> None:
    record = {"schema": 1, "prompt": "ein Fuchs – 狐", "scores": [0.25]}
    parameters = Parameters("ein Fuchs – 狐", "", {"Steps": "3", "Seed": "1", "Size": "8x8"})
    save_png(
        Image.new("RGB", (8, 8), "red"), tmp_path / "a.png", record=record, parameters=parameters
    )
    with Image.open(tmp_path / "a.png") as image:
        text = image.text
        assert image.convert("RGB").getpixel((4, 4)) == (255, 0, 0)
    assert json.loads(text["clipguide"]) == record
    assert text["parameters"].splitlines()[0] == "ein Fuchs – 狐"


def test_we_read_what_pillow_writes_compressed_or_not(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("plain", "a")
    info.add_text("packed", "b" * 1000, zip=True)
    info.add_itxt("unicode", "狐", zip=True)
    Image.new("L", (3, 3)).save(tmp_path / "a.png", pnginfo=info)
    assert read_png_text(tmp_path / "a.png") == {
        "plain": "a",
        "packed": "b" * 1000,
        "unicode": "狐",
    }


def test_metadata_round_trip_and_picture_from_elsewhere(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (8, 8)), tmp_path / "ours.png", record={"seed": 2**60})
    save_png(Image.new("RGB", (8, 8)), tmp_path / "bare.png")
    assert read_metadata(tmp_path / "ours.png").record == {"seed": 2**60}
    bare = read_metadata(tmp_path / "bare.png")
    assert (bare.record, bare.parameters) == (None, None)


def bomb() -> bytes:
    return b"k\0\0" + zlib.compress(b"a" * (MAX_TEXT_BYTES + 1))


HOSTILE = {
    "claims 2147483647 bytes, more than the file has": chunk(b"tEXt", b"k\0v", 2**31 - 1) + END,
    "a text of 4194306 bytes": chunk(b"tEXt", b"k\0" + b"v" * MAX_TEXT_BYTES) + END,
    "a compressed text of more than": chunk(b"zTXt", bomb()) + END,
    "does not decompress": chunk(b"zTXt", b"k\0\0nonsense") + END,
    "has a wrong checksum": chunk(b"tEXt", b"k\0v")[:-1] + b"!" + END,
    "ends before its last chunk": chunk(b"tEXt", b"k\0v"),
    "record is damaged": chunk(b"tEXt", b"clipguide\0{") + END,
    "its clipguide record is damaged": chunk(b"tEXt", b"clipguide\0" + b"[" * 200_000) + END,
    "is not a JSON object": chunk(b"tEXt", b"clipguide\0[1]") + END,
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_hostile_files_are_refused_in_one_line(reason: str, tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", HOSTILE[reason])
    tracemalloc.start()
    with pytest.raises(MetadataError) as caught:
        read_metadata(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 6 * MAX_TEXT_BYTES


def test_many_texts_are_capped_together(tmp_path: Path) -> None:
    texts = [b"k%d\0\0" % i + zlib.compress(b"a" * MAX_TEXT_BYTES) for i in range(12)]
    path = png(tmp_path / "a.png", *(chunk(b"zTXt", text) for text in texts), END)
    tracemalloc.start()
    with pytest.raises(MetadataError, match="bytes together"):
        read_png_text(path)
    with pytest.raises(MetadataError, match="bytes together"):
        read_metadata(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MAX_TEXT_BYTES


def test_pillow_caps_texts_too(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(b"\0\0"))
    texts = [b"k%d\0\0" % i + zlib.compress(b"a" * 2**20) for i in range(200)]
    path = png(tmp_path / "a.png", header, *(chunk(b"zTXt", text) for text in texts), pixel, END)
    tracemalloc.start()
    with pytest.raises(ImageError, match="text"):
        load_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 a JPEG"])
def test_other_files_are_no_png(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(MetadataError, match="not a PNG file"):
        read_metadata(tmp_path / "a.png")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match=r"none\.png: No such file"):
        read_metadata(tmp_path / "none.png")


def test_malformed_corpus_never_crashes(shared_data: Path) -> None:
    import tarfile

    outcomes = {"read": 0, "refused": 0}
    with tarfile.open(shared_data / "malformed" / "images.tar.gz") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None:
                outcomes[_outcome(stream.read())] += 1
    assert outcomes["read"] > 100
    assert outcomes["refused"] > 1000  # most of the corpus is no PNG


def _outcome(data: bytes) -> str:
    from clipguide.report import png_text

    try:
        png_text._read_chunks(io.BytesIO(data), len(data))
    except MetadataError:
        return "refused"
    return "read"
