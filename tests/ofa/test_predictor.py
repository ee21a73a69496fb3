"""Predictors: what they see, what they learn, and how much that is worth on networks that they have not seen."""

from __future__ import annotations

import json
from random import Random

import pytest
import torch
from supernets import SMALL
from truth import COSTS, everything, score

from orchestrator.errors import ConfigError, DamagedError
from orchestrator.ofa.architecture import Architecture, BlockChoice, StageChoice
from orchestrator.ofa.predictor import OneHot, fit, left_out_errors
from orchestrator.ofa.predictor_file import HEADER, TENSORS, predictor_files, read_predictor
from orchestrator.ofa.predictor_quality import Quality, compare_predictors, kendall
from orchestrator.ofa.spaces import SPACES, find_space

ONE_HOT = OneHot(SMALL)
SHUFFLED = Random(0).sample(everything(), 400)


@pytest.fixture
def short(monkeypatch):
    """Train the paper's predictor only briefly."""
    monkeypatch.setattr("orchestrator.ofa.predictor.EPOCHS", 3)


def test_the_features_of_an_architecture_by_hand():
    one, two = StageChoice(1, (BlockChoice(3, 4),)), StageChoice(1, (BlockChoice(5, 2), BlockChoice(3, 3)))
    architecture = Architecture("small", (one, two))
    width = [1.0]
    first = [
        *width,
        1,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
    ]  # kernels 3, 5 and expands 2, 3, 4 of two blocks, one of them skipped
    second = [*width, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0]
    assert ONE_HOT([architecture]).tolist() == [[*first, *second]]


def test_no_two_architectures_have_the_same_features():
    assert len(ONE_HOT(everything()).unique(dim=0)) == 1764


@pytest.mark.parametrize("name", SPACES)
def test_every_space_has_features(name):
    space = find_space(name)
    drawn = [space.sample(Random(0)), space.largest()]
    features = OneHot(space)(drawn)
    blocks = [sum(len(stage.blocks) for stage in each.stages) for each in drawn]
    ones = [len(space.stages) + 2 * count + bool(space.resolutions) for count in blocks]
    assert features.sum(1).tolist() == ones


def test_ridge_finds_a_linear_function():
    weights = torch.randn(ONE_HOT.size, dtype=torch.float64)
    truth = (ONE_HOT(SHUFFLED).double() @ weights + 3).tolist()
    predict = fit("ridge", ONE_HOT, SHUFFLED[:100], truth[:100])
    assert predict(SHUFFLED[100:]) == pytest.approx(truth[100:], abs=1e-3)


def test_the_errors_of_leaving_one_out_are_those_of_fitting_without_it():
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    truth = torch.randn(12, generator=generator, dtype=torch.float64)
    truth -= truth.mean()
    expected = []
    for out in range(12):
        kept = torch.arange(12) != out
        mean, offset = known[kept].mean(0), truth[kept].mean()
        centred = known[kept] - mean
        gram = centred.T @ centred + 0.7 * torch.eye(3, dtype=torch.float64)
        weight = torch.linalg.solve(gram, centred.T @ (truth[kept] - offset))
        expected.append(float(truth[out] - offset - (known[out] - mean) @ weight))
    assert left_out_errors(known, truth, 0.7).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_a_fit_has_the_same_bits_again_and_leaves_the_random_numbers_alone(kind, short):
    truth = [score(each) for each in SHUFFLED[:20]]
    before = torch.default_generator.get_state()
    first, second = (fit(kind, ONE_HOT, SHUFFLED[:20], truth, seed=5)(SHUFFLED[20:40]) for _ in range(2))
    assert first == second
    assert torch.equal(torch.default_generator.get_state(), before)


def test_predictors_know_more_of_unseen_networks_than_macs_or_depth_say():
    scores = [score(each) for each in SHUFFLED]
    found = compare_predictors(SMALL, COSTS, SHUFFLED, scores, known=120)
    for name in ("ridge", "mlp"):
        assert found[name].kendall > 0.8
        assert found[name].kendall > max(found["macs"].kendall, found["depth"].kendall) + 0.1
        assert found[name].rmse < min(found["macs"].rmse, found["depth"].rmse)
        assert found[name].rmse < 0.5 * found[name].rmse_of_mean


def test_predictors_of_shuffled_scores_know_nothing():
    scores = [score(each) for each in SHUFFLED]
    Random(1).shuffle(scores)
    for quality in compare_predictors(SMALL, COSTS, SHUFFLED, scores, known=120).values():
        assert abs(quality.kendall) < 0.1
        assert quality.rmse > 0.95 * quality.rmse_of_mean


def test_the_quality_of_the_mean_is_that_of_the_known_scores():
    quality = compare_predictors(SMALL, COSTS, SHUFFLED[:6], [1.0, 3, 1, 3, 4, 0], known=4)["ridge"]
    assert quality == Quality(quality.kendall, quality.rmse, 2.0)
    with pytest.raises(ConfigError, match="known must be a whole number from 2 to 4"):
        compare_predictors(SMALL, COSTS, SHUFFLED[:6], [1.0] * 6, known=5)


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ([1, 2, 3], [4, 5, 6], 1),
        ([1, 2, 3], [6, 5, 4], -1),
        ([1, 2, 3], [1, 3, 2], 1 / 3),
        ([1, 1, 2], [1, 2, 3], 2 / (2 * 3) ** 0.5),
        ([1, 1, 1], [1, 2, 3], 0),
    ],
)
def test_kendalls_correlation_by_hand(first, second, tau):
    assert kendall(first, second) == pytest.approx(tau)


def test_sequences_of_different_lengths_have_no_correlation():
    with pytest.raises(ConfigError, match="one length"):
        kendall([1, 2], [1])


@pytest.fixture(scope="module")
def predictor():
    return fit("ridge", ONE_HOT, SHUFFLED[:30], [score(each) for each in SHUFFLED[:30]])


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_a_stored_predictor_predicts_the_same_bits(kind, short):
    fitted = fit(kind, ONE_HOT, SHUFFLED[:30], [score(each) for each in SHUFFLED[:30]])
    assert read_predictor(predictor_files(fitted), SMALL)(SHUFFLED) == fitted(SHUFFLED)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda header, tensors: ({**header, "space": "compofa"}, tensors), ConfigError, "'small' and of format 1"),
        (lambda header, tensors: ({**header, "format": 2}, tensors), ConfigError, "got one of 'small' and 2"),
        (lambda header, tensors: ({**header, "scale": "1"}, tensors), DamagedError, "predictor.json cannot be read"),
        (lambda header, tensors: (header, tensors[:-1]), DamagedError, "its sha256 differs"),
        (lambda header, tensors: ({**header, "layers": 2}, tensors), DamagedError, "predictor.safetensors cannot be"),
        (lambda header, tensors: ({**header, "layers": 0}, tensors), DamagedError, "must lead from 22 features"),
    ],
)
def test_a_stored_predictor_that_is_another_or_damaged_is_refused(predictor, change, error, sentence):
    files = predictor_files(predictor)
    header, tensors = change(json.loads(files[HEADER]), files[TENSORS])
    with pytest.raises(error, match=sentence):
        read_predictor({HEADER: json.dumps(header).encode(), TENSORS: tensors}, SMALL)


@pytest.mark.parametrize("weight", [torch.zeros(1, 3), torch.full((1, 22), torch.nan)])
def test_layers_that_are_not_a_predictors_are_refused(weight, predictor):
    layers = ((weight, torch.zeros(1)),)
    files = predictor_files(type(predictor)(ONE_HOT, layers, 0.0, 1.0))
    with pytest.raises(DamagedError, match="cannot be read"):
        read_predictor(files, SMALL)


def test_missing_files_are_an_error(predictor):
    with pytest.raises(DamagedError, match=HEADER):
        read_predictor({}, SMALL)
    with pytest.raises(DamagedError, match=TENSORS):
        read_predictor({HEADER: predictor_files(predictor)[HEADER]}, SMALL)
