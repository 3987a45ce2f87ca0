"""Captioners trained here: their formulas step by step, their search, their runs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_decoders import PLACES, TARGETS, VOCABULARY, WIDTH, decoder_of, pictures
from torch import Tensor
from torch.nn import functional

from clipguide.clip.loading import load_scorer
from clipguide.language.captioner import Request
from clipguide.language.captioner_files import KINDS, RECURRENT, save_captioner
from clipguide.language.clip_prefix import ClipPrefix, PrefixShape, small_language_model
from clipguide.language.decoder import Decoder, LstmCell, RecurrentDecoder, token_log_probs
from clipguide.language.decoding import write_sentences
from clipguide.language.loading import load_captioner
from clipguide.language.sight import ClipSight
from clipguide.language.trained_captioner import TrainedCaptioner
from clipguide.language.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from clipguide.training.caption_run import last_tokens


@pytest.fixture
def seen() -> Tensor:
    return pictures()


def slow_log_probs(decoder: Decoder, seen: Tensor, tokens: list[int]) -> list[Tensor]:
    """log p of each token of one caption of one picture, by `step` alone."""
    state, found = decoder.begin(seen[None]), []
    for before, token in zip([START, *tokens], tokens, strict=False):
        logits, state = decoder.step(state, torch.tensor([before]))
        found.append(logits[0].log_softmax(dim=-1)[token])
    return found


@pytest.mark.parametrize("kind", RECURRENT)
def test_the_weights_dropped_are_the_same_for_every_word(kind: str, seen: Tensor) -> None:
    decoder = decoder_of(kind)
    assert isinstance(decoder, RecurrentDecoder)
    decoder.train()
    decoder.cell.weight_drop = 0.4
    weight = decoder.cell.of_hidden.weight
    torch.manual_seed(7)
    mask = functional.dropout(torch.ones_like(weight), 0.4)
    assert 0 < int((mask == 0).sum()) < mask.numel()
    torch.manual_seed(7)
    found = decoder.losses(seen, TARGETS, torch.Generator().manual_seed(3))
    whole = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(mask)
    decoder.cell.weight_drop = 0.0
    told = decoder.losses(seen, TARGETS, torch.Generator().manual_seed(3))
    words = "words" if "words" in told else "loss"  # a baseline has moved between the two
    assert float(found[words].detach()) == pytest.approx(float(told[words].detach()), abs=1e-6)
    with torch.no_grad():
        weight.copy_(whole)
    decoder.eval()
    plain = token_log_probs(decoder, seen, TARGETS[:, 0])
    decoder.cell.weight_drop = 0.4  # of training alone
    with decoder.cell.dropped():
        assert torch.equal(token_log_probs(decoder, seen, TARGETS[:, 0]), plain)


def test_tied_words_are_told_by_the_vectors_by_which_they_are_read(seen: Tensor) -> None:
    decoder = decoder_of("show_and_tell")
    assert isinstance(decoder, RecurrentDecoder)
    before = len([*decoder.parameters()])
    decoder.tie_words()
    assert len([*decoder.parameters()]) == before - 1
    state = decoder.begin(seen)
    logits, (hidden, _) = decoder.step(state, torch.tensor([START] * 3))
    assert torch.allclose(logits, hidden @ decoder.words.weight.T + decoder.logits.bias, atol=1e-5)


def test_label_smoothing_is_the_mixture_with_all_words(seen: Tensor) -> None:
    decoder = decoder_of("show_and_tell")
    plain = float(decoder.losses(seen, TARGETS, torch.Generator())["loss"])
    decoder.label_smoothing = 0.2
    mixed = float(decoder.losses(seen, TARGETS, torch.Generator())["loss"])
    even: list[Tensor] = []
    for place in range(3):
        for tokens in ([4, 5, END], [6, END]):
            state = decoder.begin(seen[place][None])
            for before, _ in zip([START, *tokens], tokens, strict=False):
                logits, state = decoder.step(state, torch.tensor([before]))
                even.append(-logits[0].log_softmax(dim=-1).mean())
    assert mixed == pytest.approx(0.8 * plain + 0.2 * float(torch.stack(even).mean()), abs=1e-5)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("kind", ["show_and_tell", "soft_attention", "clip_prefix"])
def test_the_loss_is_the_mean_log_probability_of_the_tokens(
    kind: str, last: int, seen: Tensor
) -> None:
    decoder = decoder_of(kind)
    losses = decoder.losses(seen, TARGETS, torch.Generator(), last_tokens(TARGETS, last))
    logs = [
        value
        for place in range(3)
        for tokens in ([4, 5, END], [6, END])
        for value in slow_log_probs(decoder, seen[place], tokens)[-(last + 1) if last else 0 :]
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


def test_the_clip_of_a_captioner_is_found_from_everywhere(
    clip_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip_dir.parent)
    sight = ClipSight(load_scorer(clip_dir.name), "embedding")
    language = small_language_model(6, 16, 1, 0.0)
    decoder = ClipPrefix(sight.width, language, PrefixShape(2, "mlp", 1))
    words = Vocabulary.of(["a dog"], least=1)
    save_captioner(TrainedCaptioner("x", sight, words, decoder), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    found = load_captioner("model").caption([Image.new("RGB", (20, 20))])
    assert found[0][0].tokens


@pytest.mark.parametrize("penalty", [0.0, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_wide_beams_find_the_best_sentence_of_all(kind: str, penalty: float, seen: Tensor) -> None:
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
        sums = {
            tuple(tokens): float(sum(slow_log_probs(decoder, seen[place], tokens)))
            for tokens in sentences
        }
        words = {tokens: sum(token != END for token in tokens) for tokens in sums}
        best = max(sums, key=lambda tokens: sums[tokens] - penalty * words[tokens])
        found = write_sentences(
            decoder, seen[place : place + 1], Request(1, "beam", 64), None, longest, penalty
        )[0][0]
        assert tuple(found.tokens) == best
        assert found.log_prob == pytest.approx(sums[best], abs=1e-5)


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


@pytest.mark.parametrize("penalty", [0.0, 5.0])
def test_draws_are_the_models_distribution(penalty: float) -> None:
    decoder = decoder_of("show_and_tell")
    seen = torch.randn(1, PLACES, WIDTH, generator=torch.Generator().manual_seed(2))
    source = torch.Generator().manual_seed(0)
    found = write_sentences(decoder, seen, Request(4000, "sample"), source, 1, penalty)[0]
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


def test_the_last_words_of_a_caption_are_its_end() -> None:
    assert last_tokens(TARGETS[0], 1).int().tolist() == [[0, 1, 1], [1, 1, 0]]
    assert last_tokens(TARGETS[0], 2).int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert torch.equal(last_tokens(TARGETS, 0), TARGETS != PAD)


def test_what_is_not_learned_has_no_gradient(seen: Tensor) -> None:
    decoder = decoder_of("hard_attention")
    losses = decoder.losses(seen, TARGETS, torch.Generator(), last_tokens(TARGETS, 1))
    losses["words"].backward()
    weight = dict(decoder.named_parameters())["logits.bias"].grad
    assert weight is not None
    told = TARGETS[last_tokens(TARGETS, 1)]
    assert all(weight[token] < 0 for token in (5, 6, END) if token in told)
    assert weight[4] > 0  # it is read alone, and so only ever the wrong word


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_of_what_is_seen_does_not_matter(kind: str, seen: Tensor) -> None:
    decoder = decoder_of(kind)
    scale, shift = torch.rand(2, WIDTH, generator=torch.Generator().manual_seed(3)) + 0.5
    scale[0] = 0.0  # a channel that says nothing
    decoder.standardize_by(seen)
    rows = decoder.standardized(seen).flatten(0, 1)
    assert torch.allclose(rows.mean(dim=0), torch.zeros(WIDTH), atol=1e-5)
    assert torch.allclose(rows.std(dim=0, correction=0), torch.ones(WIDTH), atol=1e-5)
    seen[..., 0] = 2.0
    decoder.standardize_by(seen)
    one = token_log_probs(decoder, seen, TARGETS[:, 1])
    other = scale * seen + 10 * shift
    decoder.standardize_by(other)
    assert torch.allclose(token_log_probs(decoder, other, TARGETS[:, 1]), one, atol=1e-4)


def test_words_are_counted_and_others_unknown() -> None:
    words = Vocabulary.of(["A dog runs .", "the dog runs!", "<s> a cat"], least=2)
    assert words.size == 4 + 3
    assert words.encode("Dog a bird runs") == [words.encode("dog")[0], words.encode("a")[0], 3,
                                              words.encode("runs")[0]]  # fmt: skip
    assert words.encode("<s>") == [UNKNOWN]  # a name of a token is text like any other
    assert words.targets(["a dog a", "a"], 2).tolist()[1][1:] == [END, PAD]
    with pytest.raises(ValueError, match="no word that stands 9 times"):
        Vocabulary.of(["a dog"], least=9)
