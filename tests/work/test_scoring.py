"""Scores of candidates: those of plain PyTorch, of any number of workers, and without a look at test data."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.nn.functional as F
from searching import AMC, SEARCHED, begun, searching, works
from together import start_together
from torch import Tensor, nn

from orchestrator.amc.least_squares import reconstructed
from orchestrator.data.batches import Batches
from orchestrator.data.load import load_data
from orchestrator.experiment import Experiment
from orchestrator.pruning.channels.shrink import shrink
from orchestrator.randomness import derive
from orchestrator.task import Classification
from orchestrator.training.calibration import Calibration
from orchestrator.training.trainer import Trainer
from orchestrator.work.scoring import Evaluate, Scored
from orchestrator.work.train import Train

CPU = torch.device("cpu")
NOISY = dataclasses.replace(SEARCHED, model_options={"dropout": 0.2})


def evaluate_work(experiment: Experiment, folder: Path) -> Evaluate:
    """Return the first generation of a search, after the dense round."""
    works(experiment, folder, 1)
    work = begun(experiment, folder)[0].next_work()
    assert isinstance(work, Evaluate)
    return work


def values(scores: Scored) -> dict[str, float]:
    return {digest: score.value for digest, score in scores.scores.items()}


def network_of(work: Evaluate, place: int) -> nn.Module:
    """Return a candidate's network as it is cut, built without the package's trainer."""
    network = tiny.deeper(3, (1, 6, 6))
    network.load_state_dict(work.state.model)
    structure = work.generation.candidates[place].structure
    smaller = shrink(copy.deepcopy(network), structure.channels)
    smaller.load_state_dict(structure.apply(work.state, work.structure).model)
    return smaller


@dataclasses.dataclass(frozen=True)
class ByLoss(Classification):
    """A loss shows every bit of a network, an accuracy does not."""

    objective: ClassVar[str] = "loss"


def test_a_score_is_to_the_bit_that_of_the_same_training_by_hand(tmp_path: Path) -> None:
    experiment = dataclasses.replace(SEARCHED, task=ByLoss())
    work = evaluate_work(experiment, tmp_path)
    scores = Trainer(experiment, load_data(SEARCHED.data, {}), device=CPU).do(work)
    training, images, labels = SEARCHED.training, *tiny.data().val.tensors
    for place, candidate in enumerate(work.generation.candidates):
        network = network_of(work, place)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        batches = Batches(load_data(SEARCHED.data, {}), batch_size=training.batch_size, device=CPU)
        for batch in batches.train(derive(derive(work.round_key, candidate.digest), 1, 0)):
            optimizer.zero_grad()
            F.cross_entropy(network(batch.inputs), batch.targets).backward()
            optimizer.step()
        loss = F.cross_entropy(network.eval()(images), labels, reduction="sum").double() / len(labels)
        assert scores.scores[candidate.digest].value == -loss.item()
    assert len(set(values(scores).values())) > 1


def worker(rank: int, folder: str) -> None:
    """Score as one of two, three and four workers. No worker has the random state or the threads of another."""
    for world in (2, 3, 4):
        if rank >= world:
            continue
        torch.manual_seed(rank)
        torch.set_num_threads(1 + rank)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
        work = pickle.loads(Path(folder, "work").read_bytes())
        trainer = Trainer(NOISY, load_data(NOISY.data, {}), device=CPU)
        Path(folder, f"{world}-{rank}").write_bytes(pickle.dumps(values(trainer.do(work))))
        dist.destroy_process_group()


def test_any_number_of_workers_gives_the_same_scores(tmp_path: Path) -> None:
    """Dropout and the order of the samples are drawn; four candidates on three workers are 2 + 1 + 1."""
    work = evaluate_work(NOISY, tmp_path / "runs")
    alone = values(Trainer(NOISY, load_data(NOISY.data, {}), device=CPU).do(work))
    (tmp_path / "work").write_bytes(pickle.dumps(work))
    start_together(worker, str(tmp_path), 4)
    found = [pickle.loads(file.read_bytes()) for file in sorted(tmp_path.glob("[234]-*"))]
    assert len(found) == 9
    assert all(scores == alone for scores in found)


def test_scoring_leaves_the_process_as_it_was_and_repeats(tmp_path: Path) -> None:
    work = evaluate_work(NOISY, tmp_path)
    trainer = Trainer(NOISY, load_data(NOISY.data, {}), device=CPU)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = values(trainer.do(work))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    backwards = dataclasses.replace(work.generation, candidates=work.generation.candidates[::-1])
    assert values(trainer.do(dataclasses.replace(work, generation=backwards))) == first


def test_a_candidate_that_diverges_has_the_worst_score_there_is(tmp_path: Path) -> None:
    experiment = searching(dataclasses.replace(AMC, tune_rate=1e30))
    work = evaluate_work(experiment, tmp_path)
    scores = Trainer(experiment, load_data(experiment.data, {}), device=CPU).do(work)
    assert set(values(scores).values()) == {0.0}


def test_what_a_worker_tells_meanwhile_leaves_out_scores_beyond_the_budget(tmp_path: Path) -> None:
    work = evaluate_work(SEARCHED, tmp_path)
    first, second, *rest = work.generation.candidates
    generation = dataclasses.replace(
        work.generation, candidates=(dataclasses.replace(first, allowed=False), second, *rest)
    )
    seen: list[tuple[int, float | None]] = []

    def on_score(work: Evaluate, done: int, best: float | None) -> bool:
        seen.append((done, best))
        return True

    trainer = Trainer(SEARCHED, load_data(SEARCHED.data, {}), device=CPU)
    scores = values(trainer.do(dataclasses.replace(work, generation=generation), on_score=on_score))
    assert [done for done, _ in seen] == list(range(1, 3 + len(rest)))
    assert [best for _, best in seen[:2]] == [None, scores[second.digest]]
    assert seen[-1][1] == max(scores[candidate.digest] for candidate in (second, *rest))


def test_a_candidate_is_computed_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = evaluate_work(SEARCHED, tmp_path)
    trainer = Trainer(SEARCHED, load_data(SEARCHED.data, {}), device=CPU)
    threads: list[int] = []
    validated = Trainer.validated

    def counted(self: Trainer, work: Train) -> Mapping[str, float]:
        threads.append(torch.get_num_threads())
        return validated(self, work)

    monkeypatch.setattr(Trainer, "validated", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trainer.do(work)
    finally:
        torch.set_num_threads(before)
    assert threads == [1] * len(work.generation.candidates)


def test_work_travels_apart_from_its_tensors(tmp_path: Path) -> None:
    for mode in ("channels", "weights"):
        work = evaluate_work(searching(dataclasses.replace(AMC, mode=mode)), tmp_path)
        light, tensors = work.split()
        again = pickle.loads(pickle.dumps(light)).joined(tensors)
        assert again.key == light.key == work.key
        assert not light.state.model
        assert not any(candidate.structure.tensors() for candidate in light.generation.candidates)
        for one, other in zip(again.generation.candidates, work.generation.candidates, strict=True):
            assert one.structure.channels == other.structure.channels
            assert one.structure.tensors().keys() == other.structure.tensors().keys()


# Where a candidate begins.


def calibration_of(experiment: Experiment) -> Calibration:
    trainer = Trainer(experiment, load_data(experiment.data, {}), device=CPU)
    return Calibration(trainer.networks, trainer.batches)


def drawn(work: Evaluate, count: int) -> Tensor:
    """Return the training images that a calibration looks at, drawn here."""
    images = tiny.data().train.tensors[0]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(derive(work.round_key, "calibration")))
    return images[order[:count]]


def test_recalibrated_statistics_are_those_of_all_calibration_samples(tmp_path: Path) -> None:
    experiment = searching(dataclasses.replace(AMC, reconstruct="bn", calibration=40))
    work = evaluate_work(experiment, tmp_path)
    state = calibration_of(experiment).start(work, work.generation.candidates[1].structure)
    network = network_of(work, 1)
    with torch.no_grad():
        seen = network[2][0](network[1](network[0](drawn(work, 40)))).transpose(0, 1).flatten(1)
    torch.testing.assert_close(state.model["2.1.running_mean"], seen.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state.model["2.1.running_var"], seen.var(1), rtol=1e-5, atol=1e-6)


def test_least_squares_takes_the_products_of_the_calibration_samples(tmp_path: Path) -> None:
    experiment = searching(dataclasses.replace(AMC, reconstruct="least_squares", calibration=1000))
    work = evaluate_work(experiment, tmp_path)
    structure = work.generation.candidates[1].structure
    state = calibration_of(experiment).start(work, structure)
    dense = tiny.deeper(3, (1, 6, 6))
    dense.load_state_dict(work.state.model)
    dense.eval()
    with torch.no_grad():
        inputs = dense[2][5](dense[2][4](dense[2][3](dense[2][2](dense[2][1](dense[2][0](
            dense[1](dense[0](tiny.data().train.tensors[0]))))))))  # fmt: skip
    rows = inputs.double()
    wanted = reconstructed(work.state.model, {"2.6": rows.T @ rows}, structure.channels)
    assert wanted.keys() == {"2.6.weight"}
    torch.testing.assert_close(state.model["2.6.weight"], wanted["2.6.weight"], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(
        state.model["2.6.weight"], structure.apply(work.state, work.structure).model["2.6.weight"]
    )
