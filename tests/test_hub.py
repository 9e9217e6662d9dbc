"""From what a user names to a local folder. The network is never asked: the hub is played by a function."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from mlx_mm import hub
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
def test_a_hub_id_is_downloaded(tmp_path: Path, play_hub: Callable[..., list[Any]], revision: str | None) -> None:
    calls = play_hub(tmp_path / "snapshot")
    assert hub.resolve(REPO, revision) == tmp_path / "snapshot"
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
    hub.resolve(REPO)
    patterns = {name: value for name, value in calls[0][1].items() if name.endswith("_patterns")}
    assert "allow_patterns" in patterns
    kept = list(huggingface_hub.utils.filter_repo_objects([file], **patterns))
    assert kept == ([file] if wanted else [])


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
