"""Captioners trained here: their formulas step by step, their search, their runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_captioner_runs import toy_captioner
from torch import Tensor

from clipguide.data.captions import read_captions
from clipguide.language.captioner import Request
from clipguide.language.captioner_files import KINDS, RECURRENT
from clipguide.language.clip_prefix import MAPPINGS, ClipPrefix, PrefixShape, small_language_model
from clipguide.language.decoder import Decoder, LstmCell, token_log_probs
from clipguide.language.decoding import write_sentences
from clipguide.language.loading import load_captioner
from clipguide.language.show_and_tell import ShowAndTell
from clipguide.language.show_attend_tell import ENTROPY, HardAttention, SoftAttention
from clipguide.language.trained_captioner import TrainedCaptioner, UnknownWord
from clipguide.language.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from clipguide.training.caption_config import CaptionerSettings

VOCABULARY, WIDTH, PLACES = 7, 6, 4


def decoder_of(kind: str, mapping: str = "mlp") -> Decoder:
    torch.manual_seed(1)
    if kind == "clip_prefix":
        language = small_language_model(VOCABULARY, 16, 1, 0.0)
        made: Decoder = ClipPrefix(WIDTH, language, PrefixShape(2, mapping, 1))
    else:
        made = RECURRENT[kind](WIDTH, VOCABULARY, 8, 0.0)
    for value in made.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.7)
    return made.eval()


@pytest.fixture
def seen() -> Tensor:
    return torch.randn(3, PLACES, WIDTH, generator=torch.Generator().manual_seed(2))


TARGETS = torch.tensor([[[4, 5, END], [6, END, PAD]]] * 3)  # (B, K, T)


def slow_log_probs(decoder: Decoder, seen: Tensor, tokens: list[int]) -> list[Tensor]:
    """log p of each token of one caption of one picture, by `step` alone."""
    state, found = decoder.begin(seen[None]), []
    for before, token in zip([START, *tokens], tokens, strict=False):
        logits, state = decoder.step(state, torch.tensor([before]))
        found.append(logits[0].log_softmax(dim=-1)[token])
    return found


@pytest.mark.parametrize("kind", ["show_and_tell", "soft_attention", "clip_prefix"])
def test_the_loss_is_the_mean_log_probability_of_the_tokens(kind: str, seen: Tensor) -> None:
    decoder = decoder_of(kind)
    losses = decoder.losses(seen, TARGETS, torch.Generator())
    logs = [
        value
        for place in range(3)
        for tokens in ([4, 5, END], [6, END])
        for value in slow_log_probs(decoder, seen[place], tokens)
    ]
    words = losses.get("words", losses["loss"])
    assert float(words) == pytest.approx(-float(torch.stack(logs).mean()), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_of_many_are_those_of_each(kind: str, seen: Tensor) -> None:
    decoder = decoder_of(kind)
    found = token_log_probs(decoder, seen, TARGETS[:, 1])
    for place in range(3):
        one = slow_log_probs(decoder, seen[place], [6, END])
        assert found[place].tolist() == pytest.approx([*map(float, one), 0.0], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_wide_beams_find_the_best_sentence_of_all(kind: str, seen: Tensor) -> None:
    decoder = decoder_of(kind)
    words, longest = [4, 5, 6], 2
    sentences = [[END]] + [
        [*some, END]
        for length in range(1, longest + 1)
        for some in itertools.product(words, repeat=length)
    ]
    # a sentence that reaches the longest without an end counts as it is
    sentences += [[*some] for some in itertools.product(words, repeat=longest + 1)]
    for place in range(3):
        means = {
            tuple(tokens): float(sum(slow_log_probs(decoder, seen[place], tokens))) / len(tokens)
            for tokens in sentences
        }
        best = max(means, key=means.__getitem__)
        found = write_sentences(
            decoder, seen[place : place + 1], Request(1, "beam", 64), None, longest
        )[0][0]
        assert tuple(found.tokens) == best
        assert found.log_prob / len(found.tokens) == pytest.approx(means[best], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_takes_the_likeliest_word_and_a_beam_of_one_the_same(
    kind: str, seen: Tensor
) -> None:
    decoder = decoder_of(kind)
    greedy = write_sentences(decoder, seen, Request(method="greedy"), None, 5)
    one_beam = write_sentences(decoder, seen, Request(method="beam", beams=1), None, 5)
    assert [one[0].tokens for one in greedy] == [one[0].tokens for one in one_beam]
    for place in range(3):
        state, tokens = decoder.begin(seen[place : place + 1]), [START]
        while tokens[-1] != END and len(tokens) < 7:
            logits, state = decoder.step(state, torch.tensor(tokens[-1:]))
            logits[:, [PAD, START, UNKNOWN]] = -torch.inf
            tokens.append(int(logits.argmax()))
        assert greedy[place][0].tokens == tokens[1:]


def test_draws_are_the_models_distribution() -> None:
    decoder = decoder_of("show_and_tell")
    seen = torch.randn(1, PLACES, WIDTH, generator=torch.Generator().manual_seed(2))
    source = torch.Generator().manual_seed(0)
    found = write_sentences(decoder, seen, Request(4000, "sample"), source, 1)[0]
    first = torch.tensor([one.tokens[0] for one in found])
    logits = decoder.step(decoder.begin(seen), torch.tensor([START]))[0][0]
    logits[[PAD, START, UNKNOWN]] = -torch.inf
    share = torch.bincount(first, minlength=VOCABULARY) / 4000
    assert torch.allclose(share, logits.softmax(dim=-1), atol=0.03)


def test_the_cell_is_torchs(seen: Tensor) -> None:
    torch.manual_seed(0)
    cell, own = LstmCell(5, 4), torch.nn.LSTMCell(5, 4)
    with torch.no_grad():
        own.weight_ih.copy_(cell.of_input.weight)
        own.bias_ih.copy_(cell.of_input.bias)
        own.weight_hh.copy_(cell.of_hidden.weight)
        own.bias_hh.zero_()
    inputs, hidden, state = torch.randn(3, 5), torch.randn(3, 4), torch.randn(3, 4)
    for mine, theirs in zip(cell(inputs, hidden, state), own(inputs, (hidden, state)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_the_penalty_is_the_papers(seen: Tensor) -> None:
    decoder = decoder_of("soft_attention")
    assert isinstance(decoder, SoftAttention)
    losses = decoder.losses(seen, TARGETS, torch.Generator())
    sums = []
    for place in range(3):
        for tokens in ([4, 5, END], [6, END]):
            state, looks = decoder.begin(seen[place : place + 1]), []
            for before in [START, *tokens[:-1]]:
                _, state = decoder.step(state, torch.tensor([before]))
                looks.append(decoder.attention(state)[0])
            assert float(looks[0].sum()) == pytest.approx(1, abs=1e-5)
            sums.append((1 - torch.stack(looks).sum(dim=0)).square())
    assert float(losses["penalty"]) == pytest.approx(float(torch.stack(sums).mean()), abs=1e-5)
    total = losses["words"] + losses["penalty"]
    assert float(losses["loss"]) == pytest.approx(float(total), abs=1e-6)


def test_hard_attention_climbs_the_likelihood_of_its_places(seen: Tensor) -> None:
    """REINFORCE by hand: the gradient of the loss with respect to one weight of f_att is the mean
    of advantage times d log p(s), of the places that the generator draws, less the entropy's."""
    decoder = decoder_of("hard_attention")
    assert isinstance(decoder, HardAttention)
    target = TARGETS[:1, :1]
    weight = decoder.energy.weight
    for seed in itertools.count():  # the first draw decides whether places are drawn
        source = torch.Generator().manual_seed(seed)
        if torch.rand((), generator=source) < 0.5:
            break
    losses = decoder.losses(seen[:1], target, torch.Generator().manual_seed(seed))
    (found,) = torch.autograd.grad(losses["reinforce"] - ENTROPY * losses["entropy"], weight)
    state, chance, entropy, logs = decoder.begin(seen[:1]), 0.0, 0.0, []
    for before, token in zip([START, 4, 5], [4, 5, END], strict=True):
        hidden, cell, places, keys, _ = state
        alpha = decoder._alpha(hidden, keys)
        spot = torch.multinomial(alpha, 1, generator=source)
        chance = chance + alpha.log().gather(1, spot).sum()
        entropy = entropy - (alpha * alpha.log()).sum()
        vector = decoder.words(torch.tensor([before]))
        gate = decoder.gate(hidden).sigmoid()
        context = gate * places[0, spot[0]]
        hidden, cell = decoder.cell(torch.cat([vector, context], dim=-1), hidden, cell)
        state = hidden, cell, places, keys, alpha
        mixed = vector + decoder.out_hidden(hidden) + decoder.out_context(context)
        logs.append(decoder.logits(mixed.tanh())[0].log_softmax(dim=-1)[token])
    reward = float(torch.stack(logs).mean())  # the baseline was 0
    (by_hand,) = torch.autograd.grad(-reward * chance / 3 - ENTROPY * entropy / 3, weight)
    assert torch.allclose(found, by_hand, atol=1e-4)
    assert float(decoder.baseline) == pytest.approx(0.1 * reward, abs=1e-5)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_frozen_language_model_keeps_its_weights(mapping: str, seen: Tensor) -> None:
    language = small_language_model(VOCABULARY, 16, 1, 0.0)
    decoder = ClipPrefix(WIDTH, language, PrefixShape(2, mapping, 1, frozen=True))
    decoder.losses(seen, TARGETS, torch.Generator())["loss"].backward()
    assert all(value.grad is None for value in language.parameters())
    assert all(value.grad is not None for value in decoder.mapping.parameters())


def test_words_are_counted_and_others_unknown() -> None:
    words = Vocabulary.of(["A dog runs .", "the dog runs!", "<s> a cat"], least=2)
    assert words.size == 4 + 3
    assert words.encode("Dog a bird runs") == [words.encode("dog")[0], words.encode("a")[0], 3,
                                              words.encode("runs")[0]]  # fmt: skip
    assert words.encode("<s>") == [UNKNOWN]  # a name of a token is text like any other
    assert words.targets(["a dog a", "a"], 2).tolist()[1][1:] == [END, PAD]
    with pytest.raises(ValueError, match="no word that stands 9 times"):
        Vocabulary.of(["a dog"], least=9)


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest, toys: Path, tmp_path_factory: pytest.TempPathFactory,
    clip_dir: Path,
) -> tuple[str, Path]:  # fmt: skip
    output = tmp_path_factory.mktemp("runs") / request.param
    toy_captioner(toys, request.param, output, clip_dir, epochs=2, batch=4).train()
    return request.param, output


def test_a_run_makes_a_captioner_that_loads(trained: tuple[str, Path], toys: Path) -> None:
    kind, output = trained
    captioner = load_captioner(output)
    assert isinstance(captioner, TrainedCaptioner)
    assert RECURRENT.get(kind, ClipPrefix) is type(captioner.decoder)
    photo = next((toys / "images").iterdir())
    written = captioner.caption([photo], 2)[0]
    assert len(written) == 2
    known = {
        word
        for caption in read_captions(toys / "captions.tsv")
        for word in caption.text.lower().split()
    }
    assert {word for one in written for word in one.text.split()} <= known
    again = captioner.log_prob([photo], written[0].text)
    if written[0].tokens <= 30:  # it has an end
        assert float(again.sentence[0]) == pytest.approx(written[0].log_prob, abs=1e-3)
    with pytest.warns(UnknownWord, match="does not know 'zebra'"):
        captioner.log_prob([photo], "a zebra")
    results = json.loads((output / "results.json").read_text())
    assert {"bleu_1", "bleu_4", "rouge_l", "cider"} <= set(results["dev"]["beam 3"])


def test_a_killed_run_goes_on_to_the_bit(
    trained: tuple[str, Path], toys: Path, tmp_path: Path, clip_dir: Path
) -> None:
    kind, whole = trained
    given = {"epochs": 2, "batch": 4, "save_every": 1}

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        toy_captioner(toys, kind, tmp_path, clip_dir, **given).train(on_step=kill)
    resumed = toy_captioner(toys, kind, tmp_path, clip_dir, **given)
    results = resumed.train(resume=True)
    before = json.loads((whole / "results.json").read_text())
    assert results["dev"] == before["dev"]
    files = [place / "model.safetensors" for place in (whole, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_captioner_with_attention_says_where_it_looked(
    trained: tuple[str, Path], toys: Path
) -> None:
    kind, output = trained
    captioner = load_captioner(output)
    assert isinstance(captioner, TrainedCaptioner)
    image = Image.open(next((toys / "images").iterdir()))
    if kind not in ("soft_attention", "hard_attention"):
        with pytest.raises(ValueError, match="expected a captioner with attention"):
            captioner.look(image)
        return
    looked = captioner.look(image)
    assert looked.places.shape[0] == len(looked.words)
    sums = looked.places.flatten(1).sum(dim=1)
    assert torch.allclose(sums, torch.ones(len(sums)), atol=1e-5)


def test_bad_settings_are_named(toys: Path, tmp_path: Path, clip_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"captioner\.kind 'lstm', expected one of"):
        CaptionerSettings(kind="lstm", image="a")
    with pytest.raises(ValueError, match="both or none"):
        CaptionerSettings(kind="show_and_tell")
    with pytest.raises(ValueError, match=r"train\.epochs 0"):
        toy_captioner(toys, "show_and_tell", tmp_path, clip_dir, epochs=0)
    assert ShowAndTell(3, 5, 4).logits.out_features == 5
