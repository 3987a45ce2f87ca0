"""`clipguide eval` against the same numbers made slowly from the scorer's own cosines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from scipy.stats import kendalltau
from tiny_backbones import toy_captions

from clipguide.clip.scorer import Scorer
from clipguide.data.captions import read_captions
from clipguide.evaluation.caption_swaps import caption_swaps, swap_cases
from clipguide.evaluation.reference_scores import ref_clip_scores

Cli = Callable[..., Outcome]
NOUNS = frozenset({"dog", "ball", "man", "frisbee"})


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    toy_captions(tmp_path)
    return tmp_path


def arguments(toys: Path, tiny_models: Path) -> list[object]:
    files = ["--captions", toys / "captions.tsv", "--images", toys / "images"]
    return [*files, "--scorer", tiny_models / "clip"]


def test_retrieval_is_that_of_sorted_cosines(
    cli: Cli, toys: Path, tiny_models: Path, tiny_scorer: Scorer
) -> None:
    data = cli("eval", "retrieval", *arguments(toys, tiny_models), "--json").data
    captions = read_captions(toys / "captions.tsv")
    images = sorted({caption.image for caption in captions})
    cosines = tiny_scorer.similarity(
        [toys / "images" / name for name in images], [caption.text for caption in captions]
    ).tolist()
    ranks = []
    for column, caption in enumerate(captions):
        own = images.index(caption.image)
        ranks.append(sum(row[column] >= cosines[own][column] for row in cosines))
    for k in (1, 5, 10):
        share = 100 * sum(rank <= k for rank in ranks) / len(ranks)
        assert data["text_to_image"][f"R@{k}"] == pytest.approx(share, abs=0.01)
        low, high = data["text_to_image"][f"R@{k} 95%"]
        assert low <= share + 0.01 <= high + 0.02
    assert (data["images"], data["captions"]) == (12, 24)
    shown = cli("eval", "retrieval", *arguments(toys, tiny_models))
    assert "12 images, 24 captions" in shown.out
    assert f"{data['image_to_text']['R@5']:.1f} [" in shown.out


def test_one_image_has_no_recall(cli: Cli, toys: Path, tiny_models: Path) -> None:
    (toys / "captions.tsv").write_text("image\tcaption\nred_ball.png\ta ball\n")
    done = cli("eval", "retrieval", *arguments(toys, tiny_models))
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("clipguide: got 1 images, expected at least 2")


def test_a_bad_image_is_named_and_left_out(cli: Cli, toys: Path, tiny_models: Path) -> None:
    (toys / "images" / "red_ball.png").write_bytes(b"not an image")
    done = cli("eval", "retrieval", *arguments(toys, tiny_models), "--json")
    assert (done.code, done.data["images"], done.data["captions"]) == (0, 11, 22)
    assert [Path(row["image"]).name for row in done.data["bad"]] == ["red_ball.png"]
    assert "skipped" in done.err


def test_agreement_is_over_single_ratings(
    cli: Cli, toys: Path, tiny_models: Path, tiny_scorer: Scorer
) -> None:
    names = sorted({caption.image for caption in read_captions(toys / "captions.tsv")})
    texts: dict[str, list[str]] = {name: [] for name in names}
    for caption in read_captions(toys / "captions.tsv"):
        texts[caption.image].append(caption.text)
    rows, cosines, votes = ["image\tcaption_image\tcaption_index\trating1\trating2"], [], []
    for number, name in enumerate(names):
        other = names[(number * 5 + 3) % len(names)]
        marks = [1 + number % 4, 1 + number % 3]
        rows.append("\t".join(map(str, [name, other, number % 2, *marks])))
        text = texts[other][number % 2]
        if other != name:
            cosines += [float(tiny_scorer.score(toys / "images" / name, text))] * 2
            votes += marks
    (toys / "ratings.tsv").write_text("\n".join(rows))
    given = ["--ratings", toys / "ratings.tsv", *arguments(toys, tiny_models)]
    data = cli("eval", "agreement", *given, "--json").data
    by_name = {row["convention"]: row for row in data["measures"]}
    expected = 100 * kendalltau(cosines, votes, variant="c").statistic
    assert by_name["cosine"]["tau_c"] == pytest.approx(expected, abs=1e-6)
    assert by_name["cosine"]["ratings"] == len(votes)
    assert by_name["clipscore"]["prefix"] == "A photo depicts"
    assert by_name["refclipscore"]["tau_c"] == pytest.approx(
        100 * kendalltau(_with_references(tiny_scorer, toys, names, texts), votes, variant="c")[0],
        abs=1e-6,
    )
    shown = cli("eval", "agreement", *given).out
    assert f"{expected:.1f} [" in shown
    missing = cli("eval", "agreement", *given[:1], toys / "none.tsv", *given[2:])
    assert (missing.code, "none.tsv: no such file" in missing.err) == (2, True)


def _with_references(
    scorer: Scorer, toys: Path, names: list[str], texts: dict[str, list[str]]
) -> list[float]:
    """RefCLIPScore of the pairs of the test above, twice each, one pair at a time."""
    values: list[float] = []
    for number, name in enumerate(names):
        other = names[(number * 5 + 3) % len(names)]
        if other != name:
            value = ref_clip_scores(
                scorer, [toys / "images" / name], [texts[other][number % 2]], [texts[name]]
            )
            values += [float(value)] * 2
    return values


def test_swaps_are_one_case_an_image(
    cli: Cli, toys: Path, tiny_models: Path, tiny_scorer: Scorer
) -> None:
    rows = ["image\tcaption", "red_ball.png\ta box left of a ball", "blue_ball.png\ta box"]
    (toys / "captions.tsv").write_text("\n".join(rows))
    data = cli("eval", "swaps", *arguments(toys, tiny_models), "--json").data
    right, wrong = tiny_scorer.similarity(
        toys / "images" / "red_ball.png", ["a box left of a ball", "a box right of a ball"]
    )[0].tolist()
    kinds = data["kinds"]
    assert kinds["relation"]["accuracy"] == (100.0 if right > wrong else 0.0)
    assert {kind: row["images"] for kind, row in kinds.items()} == {"relation": 1, "all": 1}
    shown = cli("eval", "swaps", *arguments(toys, tiny_models))
    assert "right % (chance 50)" in shown.out
    (toys / "captions.tsv").write_text("image\tcaption\nblue_ball.png\ta box")
    none = cli("eval", "swaps", *arguments(toys, tiny_models))
    assert (none.code, "applies" in none.err) == (2, True)


def test_swapped_captions_keep_their_words() -> None:
    captions = [["a dog runs", "a dog bites a man near a red ball"], ["a man throws a frisbee"]]
    cases = swap_cases(captions, NOUNS, "noun")
    assert [case.image for case in cases] == [0, 1]
    assert cases[1].wrong == "a frisbee throws a man"
    assert cases[0].right == captions[0][1]
    assert sorted(cases[0].wrong.split()) == sorted(captions[0][1].split())
    assert cases[0].wrong != captions[0][1]
    adjectives = swap_cases([["an old man and his young dog"]], NOUNS, "adjective")
    assert adjectives[0].wrong == "a young man and his old dog"


def test_an_image_that_reads_order_is_right_and_a_bag_of_words_is_wrong() -> None:
    captions = [["a man throws a frisbee"], ["a dog bites a ball"]]
    right = {text: torch.eye(4)[i] for i, (text,) in enumerate(captions)}

    def ordered(texts: list[str]) -> torch.Tensor:
        return torch.stack([right.get(text, torch.eye(4)[3]) for text in texts])

    def bag(texts: list[str]) -> torch.Tensor:
        return torch.ones(len(texts), 4)

    images = torch.eye(4)[:2]
    assert caption_swaps(images, captions, ordered, NOUNS)["noun"].accuracy == 100.0
    assert caption_swaps(images, captions, bag, NOUNS)["noun"].accuracy == 0.0
    with pytest.raises(ValueError, match="expected 1"):
        caption_swaps(images[:1], captions, bag, NOUNS)
