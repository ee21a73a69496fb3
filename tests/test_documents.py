"""What the documents show is run: every block of Python, and every command against the program that it names."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from waiting import PATIENCE_S

import orchestrator
from orchestrator.__main__ import COMMANDS, main
from orchestrator.data.small_images import write_small_images
from orchestrator.distributed import flags, job
from orchestrator.driver import Driver
from orchestrator.export.deploy import FORMATS
from orchestrator.problem import load_problem
from orchestrator.runner import run
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.opening import open_store
from orchestrator.training.trainer import Trainer

PROJECT = Path(orchestrator.__file__).parents[1]
DOCUMENTS = sorted(
    [
        PROJECT / "README.md",
        PROJECT / ".github" / "CONTRIBUTING.md",
        *(file for top in ("jobs", "k8s", "orchestrator", "tests") for file in PROJECT.glob(f"{top}/**/README.md")),
    ]
)
# How the blocks begin that are not whole files: in the first page, and in that of the package.
OWN_LOOP, ALGORITHM = "hold(prune(model, 1.0), optimizer)", "while (work := driver.next_work())"


def python_blocks(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def name_of(block: str) -> str:
    """Return the name that the first line gives to a block, which is the name of a file."""
    named = re.match(r"# (my_\w+)\.py\n", block)
    assert named, f"the first line of a block names its file, got {block.splitlines()[0]!r}"
    return named[1]


PAGES = ("jobs", "orchestrator/export")  # with tables that have a row for each
BLOCKS = {
    name_of(block): block
    for document in DOCUMENTS
    for block in python_blocks(document)
    if not block.startswith((OWN_LOOP, ALGORITHM))
}
SLOW = {"my_timm", "my_bert", "my_supernet"}  # two need packages of the extra `slow`; the last takes ten seconds


def params() -> Iterator[Any]:
    for name in BLOCKS:
        yield pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, as a user does, and forget the modules of a test after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in BLOCKS:
        sys.modules.pop(name, None)


def prepare(name: str, source: str) -> str:
    """Put what a block reads into the working directory; return the block without its download."""
    if name == "my_channels":
        pytest.importorskip("torch_pruning")
    elif name == "my_timm":
        pytest.importorskip("timm")
        write_small_images(Path("photos"))
        pretrained = 'model_options={"pretrained": True},', 'new_layers=("fc",),'
        assert all(source.count(line) == 1 for line in pretrained)
        return source.replace(pretrained[0], "").replace(pretrained[1], "")
    elif name == "my_bert":
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.BertConfig(vocab_size=128, max_position_embeddings=16, **sizes)
        transformers.BertForSequenceClassification(config).save_pretrained("bert")
    return source


@pytest.mark.parametrize("name", params())
def test_a_block_runs_as_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A block with an experiment trains all its rounds, and the last one keeps the fewest weights."""
    file = Path(f"{name}.py").absolute()
    file.write_text(prepare(name, BLOCKS[name]), encoding="utf-8")
    on_ray = "sys.exit(main(EXPERIMENT))" in BLOCKS[name]
    values = runpy.run_path(str(file), run_name=name if on_ray else "__main__")
    experiment = values.get("EXPERIMENT")
    if experiment is None:
        return
    records = run(experiment, "./runs") if on_ray else Ledger(open_store("./runs")).records()
    kept = [record.kept for record in sorted(records, key=lambda record: record.round)]
    assert len(kept) == len(experiment.densities())
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0]
    assert on_ray or "print(" not in BLOCKS[name] or "round 0: " in capsys.readouterr().out


def test_the_six_lines_of_the_first_page() -> None:
    """They keep what was removed at zero, and begin each round at the first learning rate."""
    (block,) = (block for block in python_blocks(PROJECT / "README.md") if block.startswith(OWN_LOOP))
    assert block.count("\n") == 6
    model, x = torch.nn.Linear(100, 1), torch.randn(1000, 100, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    rates = []

    def train_step() -> None:
        rates.append(scheduler.get_last_lr()[0])
        optimizer.zero_grad()
        (model(x) - x[:, :10].sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        scheduler.step()

    names: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "train_step": train_step}
    names |= {name: getattr(orchestrator, name) for name in ("hold", "prune", "rewind")} | {"steps": 100}
    exec(block, names)
    assert_only_the_inputs_that_decide(model)
    assert rates[::100] == [0.1] * 4


def test_the_loop_of_ones_own_ends_with_the_inputs_that_decide() -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS["my_loop"], names)
    assert_only_the_inputs_that_decide(names["model"])


def assert_only_the_inputs_that_decide(model: torch.nn.Linear) -> None:
    """Check that these ten keep a weight, which is 1, and no other does."""
    expected = (torch.arange(100) < 10).float()[None]
    torch.testing.assert_close(model.weight.data, expected, atol=1e-3, rtol=0)
    assert model.weight.count_nonzero() == 10


def test_the_two_lines_of_the_algorithm_train_a_path() -> None:
    (block,) = python_blocks(PROJECT / "orchestrator" / "README.md")
    assert block.startswith(ALGORITHM)
    problem, data = load_problem(tiny.EXPERIMENT)
    driver = Driver(tiny.EXPERIMENT, Ledger(open_store("./runs")), problem)
    exec(block, {"driver": driver, "trainer": Trainer(tiny.EXPERIMENT, data, device=torch.device("cpu"))})
    assert [record.round for record in driver.records()] == list(range(len(tiny.EXPERIMENT.densities())))


# Commands: lines that begin with a program, and code in a sentence.

PROGRAMS = (".venv/bin/orchestrator ", ".venv/bin/python ", ".venv/bin/ray job submit ", "make ")


def commands(document: Path) -> list[str]:
    """Return the commands of a document that have a line of their own, without comments, pipes and loops."""
    lines = [line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    texts = [re.sub(r"^(for .*; do )", "", line.strip()) for line in lines]
    return [re.split(r" #|;| \| ", t)[0].replace("$seed", "0").strip() for t in texts if t.startswith(PROGRAMS)]


def code(document: Path) -> set[str]:
    """Return the code that stands in the sentences and tables of a document."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)}


LINES = sorted(
    {(document.relative_to(PROJECT).as_posix(), text) for document in DOCUMENTS for text in commands(document)}
)
SENTENCES = sorted(
    {
        text
        for document in DOCUMENTS
        for text in code(document)
        if re.match(r"(\.venv/bin/)?(orchestrator|make) \w", text)
    }
)


@pytest.mark.parametrize("text", sorted({text for _, text in LINES}))
def test_a_command_is_one_that_its_program_takes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(text)
    if words[0] == "make":
        assert set(words[1:]) <= make_targets()
    elif words[0].endswith("orchestrator"):
        assert taken(words[1:], monkeypatch)
    elif words[1:3] == ["-m", "pytest"]:
        assert pytest_finds(words[3:])
    else:
        submitted = words[0].endswith("ray")
        script = words.index("python") + 1 if submitted else 1
        if submitted:
            assert set(words[3 : script - 1]) <= {"--working-dir", ".", "--", "--address", "http://127.0.0.1:8265"}
        assert started(words[script], words[script + 1 :], monkeypatch)


def make_targets() -> set[str]:
    """Return what the Makefile makes."""
    lines = re.findall(r"^([\w./-]+):(?!=)", (PROJECT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return set(lines) - {".PHONY"}


def taken(words: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the command line comes to the beginning of a command, where it stops, with these arguments."""
    reached: list[object] = []

    def stopping(command: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(command)
        def stop_here(*arguments: object, **named: object) -> int:
            reached.append((arguments, named))
            return 0

        return stop_here

    for name, command in COMMANDS.items():
        inner = {each: stopping(one) for each, one in command.items()} if isinstance(command, dict) else None
        monkeypatch.setitem(COMMANDS, name, inner or stopping(command))  # type: ignore[arg-type]
    return main(words) == 0 and len(reached) == 1


def pytest_finds(words: list[str]) -> bool:
    """Return whether the files of a pytest command hold what -k and -m choose."""
    named = [PROJECT / word for word in words if word.startswith("tests/")]
    files = [file for place in named for file in ([place] if place.is_file() else place.rglob("test_*.py"))]
    chosen = [after for flag, after in itertools.pairwise(words) if flag in ("-k", "-m")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    return bool(texts) and all(any(word in text for text in texts) for word in chosen)


@pytest.mark.parametrize("text", SENTENCES)
def test_a_command_in_a_sentence_has_flags_that_its_program_knows(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = shlex.split(text)
    if program == "make":
        assert set(words) <= make_targets()
    else:
        flags_are_known(words, capsys)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.relative_to(PROJECT).as_posix())
def test_a_file_that_is_named_is_there(document: Path) -> None:
    """It is named from the project's folder, or it lies somewhere in the document's folder or among the tests."""
    lines = [line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    words = {word for text in [*code(document), *lines] for word in text.split()}
    places = r"(?:jobs|tests|k8s|orchestrator|\.ci|\.github)/[\w./-]*\w/?|[\w-]+\.(?:py|yaml|png)"
    named = {word for word in words if re.fullmatch(places, word) and not word.startswith("my_")}
    folders = (document.parent, PROJECT / "tests")
    assert not {w for w in named if not ((PROJECT / w).exists() or any(next(f.rglob(w), None) for f in folders))}


def flags_are_known(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Check that --help of the command, the words before the first flag or value, has each flag of `words`."""
    name = words[:2] if words[0] in ("dataset", "ofa") else words[:1]
    with pytest.raises(SystemExit) as ended:
        main([*name, "--help"] if not words[0].startswith("-") else ["--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", shown), f"{' '.join(name)} has no {flag}"


def started(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a job comes to its beginning, where it stops, with these arguments."""
    reached: list[object] = []

    def stop_here(parsed: object, *_: object) -> int:
        reached.append(parsed)
        return 0

    monkeypatch.setattr(job, "run_job", stop_here)
    monkeypatch.setattr(flags, "run_job", stop_here)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT / script), run_name="__main__")
    assert not ended.value.code, said.getvalue()
    return bool(reached)


@pytest.mark.slow
def test_the_api_reference_has_each_public_name_and_a_page_of_each_file() -> None:
    pytest.importorskip("pdoc")
    script = str(PROJECT / ".ci" / "api.py")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, script, "api"], env=environment, check=True, timeout=PATIENCE_S)
    page = Path("api/orchestrator.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in orchestrator.__all__)
    assert Path("api/orchestrator/plan.html").exists()


def test_every_job_and_every_format_is_in_its_table() -> None:
    rows = {
        name: re.findall(r"^\| (`.*?) \|", (PROJECT / name / "README.md").read_text(), flags=re.MULTILINE)
        for name in PAGES
    }
    listed = {name: set(re.findall(r"`([\w.-]+)`", " ".join(found))) for name, found in rows.items()}
    assert {file.name for file in (PROJECT / "jobs").glob("*.py")} <= listed["jobs"]
    assert set(FORMATS) <= listed["orchestrator/export"]


def test_every_document_is_read_and_commands_are_found() -> None:
    assert {"README.md", "jobs/README.md", "k8s/README.md"} <= {document for document, _ in LINES}
    assert SENTENCES
    assert len(BLOCKS) >= 10


def anchors(document: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.relative_to(PROJECT).as_posix())
def test_a_link_leads_to_a_file_and_a_heading_of_it(document: Path) -> None:
    for link in re.findall(r"\]\(((?!https?://)[^)\s]+)\)", document.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_first_page_is_short_and_begins_with_twelve_lines_of_python() -> None:
    page = PROJECT / "README.md"
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 150
    lines = [line for line in python_blocks(page)[0].splitlines() if line]
    assert len(lines) <= 12
    assert [line for line in lines if "import" in line] == [lines[1]]
