"""What README.md and examples/ promise, run as a newcomer would."""

from __future__ import annotations

import ast
import importlib.util
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from glm_side_files import write_glm_side_files
from glm_tiny import glm_config, glm_weights
from PIL import Image
from tiny import write_checkpoint, write_json

import mlx_mm
from mlx_mm.checkpoint import hub
from mlx_mm.cli import program as cli
from mlx_mm.search.place import default_index

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
INSTALLED = {name for name in ("ray",) if importlib.util.find_spec(name)}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PICTURES = hub.BUNDLED / "pictures"
PLAN = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def command_blocks() -> list[list[str]]:
    """The lines of each bash block that run mlx_mm, with continued lines joined."""
    texts = [text.replace("\\\n", " ").splitlines() for text in blocks("bash")]
    return [[line for line in lines if re.search(r"(^|[|=;&\s])mlx_mm\s", line)] for lines in texts]


def needs_the_world(line: str) -> bool:
    """Whether a line installs something, names a checkpoint of the hub ("owner/name"), or serves until it is ended."""
    words = shlex.split(line, comments=True)
    models = [after for word, after in itertools.pairwise(words) if word in ("-m", "--model", "convert", "info")]
    return "pip" in words or "serve" in words or any(re.fullmatch(r"[\w-]+/[\w.-]+", name) for name in models)


# By blocks, whose lines may need what those before them made
RUNNABLE = [found for lines in command_blocks() if (found := [line for line in lines if not needs_the_world(line)])]
OTHERS = [line for lines in command_blocks() for line in lines if needs_the_world(line)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all command lines run one after another: `photos/` with some pictures."""
    folder = tmp_path_factory.mktemp("readme")
    lay_out(folder)
    lay_out_glm(folder)
    with pytest.MonkeyPatch.context() as patch, mlx_mm.Index(own_index(folder, patch), model="emoji-siglip2") as index:
        index.refresh(folder / "photos")
    return folder


def own_index(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Where the index lies of a user whose home is `folder`."""
    patch.setenv("HOME", str(folder))
    patch.setenv("XDG_DATA_HOME", str(folder / "data"))
    return default_index()


def lay_out_glm(folder: Path) -> Path:
    """A receipt, a film (a GIF inside), and `glm-flash-4bit/`: tiny, and soon at the end of what it has to say."""
    frames = [Image.fromarray(np.full((60, 80, 3), shade, np.uint8)) for shade in (0, 80, 160, 240)]
    frames[2].save(folder / "receipt.jpg")
    frames[0].save(folder / "clip.mp4", "GIF", save_all=True, append_images=frames[1:], duration=500)
    config = glm_config()
    model = write_checkpoint(folder / "glm-flash-4bit", config, glm_weights(config), side_files=write_glm_side_files)
    write_json(model / "generation_config.json", {"eos_token_id": list(range(150))})
    return model


def lay_out(folder: Path) -> None:
    (folder / "photos").mkdir()
    names = {Path(item["picture"]).stem for item in PLAN["classify"]}
    names |= {search["expected"] for search in PLAN["searches"]}
    for picture in sorted(PICTURES.glob("*.png")):
        if picture.stem in names:
            shutil.copy(picture, folder / "photos" / picture.name)


@pytest.fixture
def run_line(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Run one line: in this process, or by the shell where it uses the shell's own signs."""
    monkeypatch.chdir(desk)
    own_index(desk, monkeypatch)
    monkeypatch.setenv("MLX_MM_CACHE", str(desk / "cache"))

    def run(line: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO("What is this?\n"))
        words = shlex.split(line, comments=True)
        if words[0] == "mlx_mm" and not set(line) & set("|<>&;$`"):
            with pytest.raises(SystemExit) as stop:
                cli.main(words[1:])
            return int(str(stop.value.code or 0))
        script = f'mlx_mm() {{ {shlex.quote(sys.executable)} -m mlx_mm "$@"; }}\n{line}\n'
        environment = {**os.environ, "PYTHONPATH": str(Path(mlx_mm.__file__).parents[1])}
        return subprocess.run(["bash", "-ec", script], env=environment, timeout=120, check=False).returncode

    return run


# --- README -------------------------------------------------------------------------------------------------------


def test_quick_start() -> None:
    """One block of exactly two lines: install and see it work; install the tests and run them."""
    sections = re.split(r"^## ", README, flags=re.MULTILINE)
    title, _, body = sections[1].partition("\n")
    assert title == "Quick start"
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in fences] == ["bash"]
    first, second = fences[0][1].splitlines()
    assert first == "pip install . && mlx_mm demo"
    assert "[test]" in second
    assert "pytest" in second


def test_there_is_something_to_run() -> None:
    assert len(blocks("python")) >= 1
    assert len(RUNNABLE) >= 3


def test_every_command_is_shown() -> None:
    shown = " ".join(itertools.chain(*command_blocks()))
    for name in cli.COMMANDS:
        assert re.search(rf"mlx_mm {name}\b", shown), f"README shows no `mlx_mm {name}`"


ALONE = [number for number, text in enumerate(blocks("python")) if "openai" not in text]  # others ask a server


@pytest.mark.parametrize("number", ALONE)
def test_python_block(
    number: int,
    tmp_path: Path,
    tiny_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = blocks("python")[number]
    if re.search(r'load\("[\w-]+/', text):  # a checkpoint of the hub: a tiny one stands in
        text = re.sub(r'load\("laion/[\w-]+"', f"load({str(tiny_checkpoint('clap'))!r}", text)
        for name in re.findall(r'"(\w+\.(?:wav|mp3|flac))"', text):
            soundfile.write(tmp_path / name, np.sin(np.arange(30_000) / 9), 24_000)
    if "zai-org/" in text:
        text = re.sub(r'load\("zai-org/[\w.-]+"', f"load({str(lay_out_glm(tmp_path))!r}", text)
    if "jinaai/" in text:  # its tiny double has shorter texts and vectors
        text = re.sub(r'load\("jinaai/[\w-]+"', f"load({str(tiny_checkpoint('jina_clip'))!r}", text)
        text = text.replace("max_length=8192", "max_length=64").replace("dim=256", "dim=32")
    code = compile(text, f"README.md, python block {number + 1}", "exec")
    exec(code, {"__name__": "__main__"})
    out = capsys.readouterr().out
    for word in re.findall(r'encode_text\([^)]*"(\w+)"\)', blocks("python")[number]):
        assert re.findall(r"[\w-]+\.png", out)[0] == f"{word}.png"  # what README searches for is found first


@pytest.mark.parametrize("number", [0, 1])
def test_the_first_examples_print_what_they_say(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind each print stands its output."""
    monkeypatch.chdir(tmp_path)
    text = blocks("python")[number]
    exec(compile(text, "README.md", "exec"), {"__name__": "__main__"})
    shown = capsys.readouterr().out.splitlines()
    assert shown == re.findall(r"^ *print\(.*\)  # (.+)$", text, re.MULTILINE)
    assert len(shown) >= 2


def test_the_scores_of_the_example_tell_its_labels_apart() -> None:
    """And the picture is one of what it is scored against."""
    picture, scores = re.findall(r"^print\(.*\)  # (.+)$", blocks("python")[1], re.MULTILINE)
    (label, score), *others = ast.literal_eval(scores)
    assert picture == f"{label}.png"
    assert score > 0.9
    assert len(others) >= 2
    assert all(other < 0.1 for _, other in others)


@pytest.mark.parametrize("lines", RUNNABLE, ids="; ".join)
def test_command_lines(lines: list[str], run_line: Callable[[str], int]) -> None:
    for line in lines:
        assert run_line(line) == 0, line


@pytest.mark.parametrize("line", OTHERS)
def test_other_command_lines_parse(line: str) -> None:
    """Their options exist, although the checkpoint is not fetched here."""
    for part in re.split(r"&&|;|\|", line):
        words = shlex.split(part, comments=True)
        if words and words[0] == "mlx_mm":
            cli.build_parser().parse_args(words[1:])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README))))
def test_links_inside_the_repository(target: str) -> None:
    if "://" not in target:
        assert (ROOT / target).exists()


# --- examples -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """`run_example("search_photos", "cat")` gives the lines it prints."""

    def run(name: str, *arguments: object) -> list[str]:
        script = ROOT / "examples" / f"{name}.py"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_there_are_seven_examples() -> None:
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_say_what_they_do(script: Path) -> None:
    text = script.read_text("utf-8")
    assert len(text.splitlines()) <= 30
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"python examples/{script.name}" in docstring


@pytest.mark.parametrize(
    "name", ["index_photos", "search_photos", "tag_photos", "similar_photos", "embed_text_languages"]
)
def test_examples_run_as_they_are(name: str, run_example: Callable[..., list[str]], tmp_path: Path) -> None:
    """Of the others, one is run by `test_four_bits_cost_little`, one below."""
    assert run_example(name)
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore")  # of Ray, about itself
@pytest.mark.skipif("ray" not in INSTALLED, reason="pip install 'ray[data]'")
def test_ray_makes_what_an_index_takes(run_example: Callable[..., list[str]], tmp_path: Path) -> None:
    pictures = Path(mlx_mm.__file__).parent / "bundled" / "pictures"
    run_example("ray_embed", pictures, tmp_path / "parts", "--actors", 2)
    importlib.import_module("ray").shutdown()
    with mlx_mm.Index(tmp_path / "a.mmindex") as index:
        assert index.merge(tmp_path / "parts").contents == len(list(pictures.glob("*.png")))
        assert Path(index.search("pizza")[0].path).stem == "pizza"


def test_search_photos_finds_them(run_example: Callable[..., list[str]]) -> None:
    lines = run_example("search_photos", *(search["query"] for search in PLAN["searches"]))
    assert len(lines) == 4 * len(PLAN["searches"])
    for i, search in enumerate(PLAN["searches"]):
        assert lines[4 * i] == search["query"]
        assert lines[4 * i + 1].split()[1] == f"{search['expected']}.png"


def test_an_index_is_made_once(run_example: Callable[..., list[str]], tmp_path: Path) -> None:
    """The second time nothing is new; and what is not there is not found."""
    lay_out(tmp_path)
    words = ["pizza", "piano"]
    first, *found = run_example("index_photos", tmp_path / "photos", *words, "--index", tmp_path / "own.mmindex")
    assert first.startswith("12 files, 12 new")
    assert [line.split()[-1] for line in found] == ["pizza", "pizza.png", "piano", "fits"]
    again, *_ = run_example("index_photos", tmp_path / "photos", *words, "--index", tmp_path / "own.mmindex")
    assert again.startswith("12 files, 0 new")


def test_search_photos_takes_a_folder(run_example: Callable[..., list[str]], tmp_path: Path) -> None:
    lay_out(tmp_path)
    expected = PLAN["searches"][0]["expected"]
    (tmp_path / "photos" / "deep").mkdir()
    (tmp_path / "photos" / f"{expected}.png").rename(tmp_path / "photos" / "deep" / "renamed.png")
    lines = run_example("search_photos", "--folder", tmp_path / "photos", PLAN["searches"][0]["query"])
    assert lines[1].split()[1] == "renamed.png"


def test_tag_photos_gives_the_expected_tags(run_example: Callable[..., list[str]]) -> None:
    for item in PLAN["classify"]:
        lines = run_example("tag_photos", "--tags", ",".join(item["labels"]))
        tags = dict(re.split(r"\s{1,}", line, maxsplit=1) for line in lines)
        assert len(tags) == len(list(PICTURES.glob("*.png")))
        assert re.match(rf"{item['expected']} [01]\.\d\d", tags[Path(item["picture"]).name])


def test_similar_photos_finds_a_copy(run_example: Callable[..., list[str]], tmp_path: Path) -> None:
    lay_out(tmp_path)
    original = sorted((tmp_path / "photos").glob("*.png"))[0]
    with Image.open(original) as image:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        white.convert("RGB").resize((80, 80)).save(tmp_path / "photos" / "copy.jpg", quality=90)
    lines = run_example("similar_photos", tmp_path / "photos", "--pairs", 3)
    assert len(lines) == 3
    cosine, *pair = lines[0].split()
    assert sorted(pair) == sorted(["copy.jpg", original.name])
    assert 0.8 < float(cosine) <= 1


def test_languages_agree(run_example: Callable[..., list[str]]) -> None:
    words = [search["query"] for search in PLAN["searches"]]
    lines = run_example("embed_text_languages", *words)[1:]
    assert float(lines[0].split()[0]) == pytest.approx(1, abs=1e-3)
    assert [line.split()[1] for line in lines] == [search["expected"] for search in PLAN["searches"]]


def test_four_bits_cost_little(run_example: Callable[..., list[str]]) -> None:
    eight, four = run_example("convert_and_compare")
    cosines = {bits: [float(x) for x in re.findall(r"[01]\.\d{4}", line)] for bits, line in ((8, eight), (4, four))}
    assert all(0.999 <= cosine <= 1.0001 for cosine in cosines[8])
    assert all(0.95 <= low < high for low, high in zip(cosines[4], cosines[8], strict=True))


def test_the_benchmark_of_glm_runs(
    tmp_path: Path,
    tiny_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Over a tiny checkpoint in the place of the one that it would write."""
    shutil.copytree(tiny_checkpoint("glm46v"), tmp_path / "source")
    for stage in ("convert", "answer"):
        monkeypatch.setattr("sys.argv", ["glm.py", str(tmp_path), "--tokens", "2", "--stage", stage])
        runpy.run_path(str(ROOT / "benchmarks" / "glm.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert '"parameters"' in shown
    assert '"seconds_per_token"' in shown
