"""From what a user names to a local folder. The network is never asked: the hub is played by a function."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from comparing import LONG
from huggingface_hub import errors as hub_errors

from mlx_mm.checkpoint import hub
from mlx_mm.errors import ConfigError, ModelNotFoundError

REPO = "google/siglip2-base-patch16-naflex"
BUNDLED = "emoji-siglip2"


@pytest.fixture
def play_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """`play_hub(result)` replaces the download: `result` is returned, or raised if it is an error."""

    def play(result: Any) -> list[Any]:
        calls: list[Any] = []

        def download(*args: Any, **options: Any) -> str:
            calls.append((args, options))
            if isinstance(result, Exception):
                raise result
            return str(result)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return calls

    return play


def http_error(kind: type[Exception], status: int, message: str) -> Exception:
    """An error of huggingface_hub with the response it wants, of whichever HTTP package that version uses."""
    base = next(parent for parent in hub_errors.HfHubHTTPError.__mro__ if parent.__name__ == "HTTPError")
    http = importlib.import_module(base.__module__.split(".")[0])
    url = f"https://huggingface.co/api/models/{REPO}"
    if http.__name__ == "requests":
        response = http.Response()
        response.status_code, response.url = status, url
        response.request = http.Request("GET", url).prepare()
    else:
        response = http.Response(status, request=http.Request("GET", url))
    return kind(message, response=response)


# --- local --------------------------------------------------------------------------------------------------------


def test_a_folder_is_itself(tmp_path: Path, play_hub: Callable[..., list[Any]]) -> None:
    calls = play_hub(AssertionError("not for the hub"))
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path)) == tmp_path
    assert calls == []


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert hub.resolve("~/model") == tmp_path / "model"


def test_a_folder_that_looks_like_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, play_hub: Callable[..., list[Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / REPO).mkdir(parents=True)
    calls = play_hub(AssertionError("not for the hub"))
    assert hub.resolve(REPO).resolve() == tmp_path / REPO
    assert calls == []


def test_bundled_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert BUNDLED in hub.bundled_names()
    assert hub.resolve(BUNDLED) == hub.BUNDLED / BUNDLED
    assert (hub.resolve(BUNDLED) / "config.json").is_file()


def test_a_folder_goes_before_the_bundled_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / BUNDLED).mkdir()
    assert hub.resolve(BUNDLED).resolve() == tmp_path / BUNDLED


def test_only_checkpoints_are_bundled_names() -> None:
    assert "pictures" not in hub.bundled_names()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors is a file; expected the folder"):
        hub.resolve(file)


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "~/missing/model", "a/b/c", "missing", "../x/y"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, play_hub: Callable[..., list[Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = play_hub(AssertionError("not for the hub"))
    with pytest.raises(ModelNotFoundError) as caught:
        hub.resolve(name)
    assert f"There is no folder {name}; expected" in str(caught.value)
    assert BUNDLED in str(caught.value)  # says what there is
    assert calls == []


def test_nothing_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError):
        hub.resolve("")


@pytest.mark.parametrize("bundled", [True, False])
def test_a_local_folder_has_no_revision(tmp_path: Path, bundled: bool) -> None:
    with pytest.raises(ModelNotFoundError, match="no revision 'v2'"):
        hub.resolve(BUNDLED if bundled else tmp_path, revision="v2")


# --- the hub ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [None, "main", "0123456789abcdef"])
@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json"])
def test_a_hub_id_is_downloaded(
    tmp_path: Path, play_hub: Callable[..., list[Any]], revision: str | None, file: str
) -> None:
    (tmp_path / file).touch()
    calls = play_hub(tmp_path)
    assert hub.resolve(REPO, revision) == tmp_path
    [(args, options)] = calls
    assert args == (REPO,)
    assert options["revision"] == revision
    assert options["allow_patterns"] == hub.FILES


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("config.json", True),
        ("tokenizer.json", True),
        ("preprocessor_config.json", True),
        ("model.safetensors", True),
        ("model-00001-of-00003.safetensors", True),
        ("model.safetensors.index.json", True),
        ("chat_template.jinja", True),
        ("spiece.model", True),
        ("README.md", True),
        ("pytorch_model.bin", False),
        ("flax_model.msgpack", False),
        ("tf_model.h5", False),
        ("model.onnx", False),
        ("assets/figure.png", False),
        ("onnx/config.json", False),
        ("openvino/tokenizer/config.json", False),
    ],
)
def test_only_what_is_needed_is_downloaded(
    tmp_path: Path, play_hub: Callable[..., list[Any]], file: str, wanted: bool
) -> None:
    calls = play_hub(tmp_path)
    (tmp_path / "model.safetensors").touch()
    hub.resolve(REPO)
    patterns = {name: value for name, value in calls[0][1].items() if name.endswith("_patterns")}
    assert "allow_patterns" in patterns
    kept = list(huggingface_hub.utils.filter_repo_objects([file], **patterns))
    assert kept == ([file] if wanted else [])


# --- weights that are elsewhere -----------------------------------------------------------------------------------


class Hub:
    """A repository and its cache: `references` are names of the files of each, `online` says whether it answers."""

    def __init__(self, cache: Path, references: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch):
        self.cache, self.references, self.online = cache / "models--a--b", references, True
        self.downloads: list[tuple[str, str]] = []
        self.asked: list[str] = []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)

    def snapshot_download(
        self, repo: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        revision = revision or "main"
        note, folder = self.cache / "refs" / revision, self.cache / "snapshots" / revision.replace("/", "-")
        if not self.online:
            if not note.exists():
                raise hub_errors.LocalEntryNotFoundError("not in the cache")
            return str(folder)
        self.check(revision)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        kept = huggingface_hub.utils.filter_repo_objects(
            self.references[revision], allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        for name in kept:
            if not (folder / name).exists():
                (folder / name).touch()
                self.downloads.append((revision, name))
        return str(folder)

    def list_repo_refs(self, repo: str, *, include_pull_requests: bool) -> Any:
        if not self.online:
            raise hub_errors.OfflineModeIsEnabled("Offline mode is enabled")
        assert include_pull_requests
        names = [name for name in self.references if name.startswith("refs/pr/")]
        return SimpleNamespace(pull_requests=[SimpleNamespace(ref=name) for name in names] or None)

    def list_repo_files(self, repo: str, *, revision: str) -> list[str]:
        self.asked.append(revision)
        self.check(revision)
        return self.references[revision]

    def check(self, revision: str) -> None:
        if revision not in self.references or self.references[revision] == ["gone"]:
            raise http_error(hub_errors.RevisionNotFoundError, 404, "404 Client Error")

    def weights(self) -> list[tuple[str, str]]:
        return [pair for pair in self.downloads if fnmatch(pair[1], "*.safetensors") or fnmatch(pair[1], "*.bin")]


BIN = ["config.json", "pytorch_model.bin", "training_args.bin", "optimizer.bin", "flax_model.msgpack"]
SAFE = [*BIN, "model.safetensors"]


def test_safetensors_of_a_pull_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    references = {"main": BIN, "refs/pr/10": SAFE, "refs/pr/3": SAFE, "refs/pr/2": BIN, "refs/pr/1": ["gone"]}
    play = Hub(tmp_path, references, monkeypatch)
    folder = hub.resolve(REPO)
    assert folder.name == "refs-pr-3"
    assert (folder / "config.json").exists()
    assert play.weights() == [("refs/pr/3", "model.safetensors")]
    assert play.asked == ["refs/pr/1", "refs/pr/2", "refs/pr/3"]
    assert hub.resolve(REPO) == folder
    assert len(play.asked) == 3  # what is in the cache is not looked for
    play.online = False
    assert hub.resolve(REPO) == folder
    assert len(play.weights()) == 1


def test_a_bin_where_nobody_offers_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Hub(tmp_path, {"main": BIN, "refs/pr/1": BIN}, monkeypatch)
    folder = hub.resolve(REPO)
    assert folder.name == "main"
    assert play.weights() == [("main", "pytorch_model.bin")]
    play.references["refs/pr/2"] = SAFE
    assert hub.resolve(REPO) == folder  # never both
    play.online = False
    assert hub.resolve(REPO) == folder
    assert play.weights() == [("main", "pytorch_model.bin")]


def test_shards_of_a_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    play = Hub(tmp_path, {"main": ["config.json", "pytorch_model.bin.index.json", *shards, "rng.bin"]}, monkeypatch)
    folder = hub.resolve(REPO)
    assert play.weights() == [("main", name) for name in shards]
    (folder / shards[1]).unlink()  # an interrupted download goes on
    hub.resolve(REPO)
    assert (folder / shards[1]).exists()


@pytest.mark.parametrize("files", [SAFE, BIN, ["config.json"]])
def test_a_revision_is_taken_as_it_is(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Hub(tmp_path, {"main": SAFE, "v2": files, "refs/pr/1": SAFE}, monkeypatch)
    assert hub.resolve(REPO, "v2").name == "v2"
    assert play.asked == []
    assert [name for _, name in play.weights()] == [files[-1] if files == SAFE else "pytorch_model.bin"][
        : len(files) - 1
    ]


def test_safetensors_of_main_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Hub(tmp_path, {"main": SAFE, "refs/pr/1": SAFE}, monkeypatch)
    assert hub.resolve(REPO).name == "main"
    assert play.asked == []
    assert play.weights() == [("main", "model.safetensors")]


def test_no_weights_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder comes back; the error of whoever opens its weights says what is missing."""
    play = Hub(tmp_path, {"main": ["config.json", "flax_model.msgpack"]}, monkeypatch)
    assert hub.resolve(REPO).name == "main"
    assert play.weights() == []


def test_offline_with_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Hub(tmp_path, {"main": BIN}, monkeypatch)
    play.online = False
    with pytest.raises(ModelNotFoundError, match="cannot be reached"):
        hub.resolve(REPO)
    play.online = True
    hub.resolve(REPO)
    (play.cache / "snapshots" / "main" / "pytorch_model.bin").unlink()
    play.online = False
    with pytest.raises(ModelNotFoundError, match="cannot be reached"):
        hub.resolve(REPO)


def test_a_cached_pull_request_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Hub(tmp_path, {"main": BIN, "refs/pr/1": SAFE, "refs/pr/2": SAFE}, monkeypatch)
    assert hub.resolve(REPO).name == "refs-pr-1"
    play.references["refs/pr/1"] = ["gone"]
    assert hub.resolve(REPO).name == "refs-pr-2"


NOT_ON_THE_HUB = "the hub has no such repository"
FAILURES = {
    "no such repository": (
        http_error(hub_errors.RepositoryNotFoundError, 401, "401 Client Error.\n\nRepository Not Found"),
        NOT_ON_THE_HUB,
    ),
    "login needed": (http_error(hub_errors.GatedRepoError, 403, "403 Client Error.\n\nGated"), NOT_ON_THE_HUB),
    "no valid id": (hub_errors.HFValidationError("Repo id must use alphanumeric chars"), NOT_ON_THE_HUB),
    "no such revision": (
        http_error(hub_errors.RevisionNotFoundError, 404, "404 Client Error.\n\nRevision Not Found"),
        f"The hub has {REPO}, but no revision 'v2' of it",
    ),
    "offline": (
        hub_errors.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder"),
        "the hub cannot be reached",
    ),
    "server error": (
        http_error(hub_errors.HfHubHTTPError, 503, "503 Server Error\n\n(Request ID: 1)\nService Unavailable"),
        "Downloading .* failed: 503",
    ),
    "no file": (
        http_error(hub_errors.EntryNotFoundError, 404, "404 Client Error")
        if issubclass(hub_errors.EntryNotFoundError, hub_errors.HfHubHTTPError)
        else http_error(hub_errors.RemoteEntryNotFoundError, 404, "404 Client Error"),
        "failed: 404",
    ),
    "disk full": (OSError(28, "No space left on device"), "No space left on device"),
    "connection lost": (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_is_one_error_of_one_line(case: str, play_hub: Callable[..., list[Any]]) -> None:
    error, expected = FAILURES[case]
    play_hub(error)
    with pytest.raises(ModelNotFoundError, match=expected) as caught:
        hub.resolve(REPO, "v2")
    assert REPO in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_lost_connection_of_the_http_package(play_hub: Callable[..., list[Any]]) -> None:
    """Its own errors reach us from the middle of a download; newer ones are no OSError."""
    base = next(parent for parent in hub_errors.HfHubHTTPError.__mro__ if parent.__name__ == "HTTPError")
    http = importlib.import_module(base.__module__.split(".")[0])
    lost = http.ReadTimeout("The read operation timed out")
    play_hub(lost)
    with pytest.raises(ModelNotFoundError, match="timed out"):
        hub.resolve(REPO)


@LONG[0]
@LONG[1]
def test_offline_mode_for_real(tmp_path: Path) -> None:
    """Through the real huggingface_hub, which reads HF_HUB_OFFLINE when it is imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment["PYTHONPATH"] = str(Path(hub.__file__).parents[1])  # installed or not
    command = [sys.executable, "-m", "mlx_mm", "info", REPO]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert "offline" in run.stderr


@LONG[0]
@LONG[1]
@pytest.mark.parametrize(
    ("references", "expected"),
    [
        ({"main": ["config.json", "model.safetensors"]}, "main"),
        ({"main": ["config.json", "pytorch_model.bin"], "refs/pr/1": ["config.json"]}, "main"),
        ({"main": ["config.json"], "refs/pr/2": ["config.json", "model.safetensors"]}, "refs/pr/2"),
        ({"main": ["config.json"]}, None),
    ],
)
def test_a_real_cache_offline(references: dict[str, list[str]], expected: str | None, tmp_path: Path) -> None:
    """The layout of the cache is huggingface_hub's; it finds in it what was downloaded before."""
    cache = tmp_path / "hf" / "hub" / "models--owner--name"
    commits = {reference: f"{i + 1:040x}" for i, reference in enumerate(references)}
    for reference, commit in commits.items():
        (cache / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
        (cache / "refs" / reference).write_text(commit)
        (cache / "snapshots" / commit).mkdir(parents=True)
        for name in references[reference]:
            (cache / "snapshots" / commit / name).touch()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment["PYTHONPATH"] = str(Path(hub.__file__).parents[1])
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", "from mlx_mm.checkpoint import hub; print(hub.resolve('owner/name'))"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    if expected is None:
        assert "ModelNotFoundError: There is no folder owner/name; the hub cannot be reached" in run.stderr
    else:
        assert Path(run.stdout.strip()).name == commits[expected]


# --- config.json --------------------------------------------------------------------------------------------------


def test_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "siglip", "über": [1]}', "utf-8")
    assert hub.read_config(tmp_path) == {"model_type": "siglip", "über": [1]}


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
        hub.read_config(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
        hub.read_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe\x00", b'{"model_type": "siglip"'])
def test_a_config_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match="is not JSON"):
        hub.read_config(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '"siglip"', '{"architectures": ["SiglipModel"]}'])
def test_a_config_without_model_type(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="has no model_type"):
        hub.read_config(tmp_path)
