"""The rules of the house: who may import whom, what a family offers, how long a file may be."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import mlx_mm
from mlx_mm.models import MODEL_TYPES, find_family

PACKAGE = Path(mlx_mm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FAMILIES = sorted(set(MODEL_TYPES.values()))
ROOMS = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in FILES}
ARRAYS = {"mlx", "numpy"}
COMMAND_LINE = {"cli", "cli_generate", "chat", "console", "__main__"}  # the rooms that talk to a terminal
# The rooms that make an answer, which alone import mlx_lm beside the family that has it
ANSWERS = ["answering", "conversation", "generate", "prompt_cache", "sampling"]
# Of `tiny_checkpoint`, each kind of every family
TINY = ["siglip", "siglip2", "metaclip_2", "clap", "clap-fused", "jina_clip"]
PROCESSOR_ROOMS = (
    "processor",
    "defaults",
    "media",
    "pixels",
    "prompt",
    "settings",
)  # a large family splits its processor
NEVER = {"torch", "transformers", "torchvision", "timm", "tensorflow", "jax"}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; `from a.b import c` gives a.b and a.b.c."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    """Top-level packages from outside that a file imports."""
    return {name.split(".")[0] for name in imported(path)} - {"mlx_mm"} - set(sys.stdlib_module_names)


def neighbours(path: Path) -> set[str]:
    """Rooms of our own package that a file imports, as paths: "layers/attention"."""
    names = {name.removeprefix("mlx_mm.").replace(".", "/") for name in imported(path) if name.startswith("mlx_mm.")}
    return {name if name in ROOMS else f"{name}/__init__" for name in names if name in ROOMS or is_folder(name)}


def is_folder(name: str) -> bool:
    return f"{name}/__init__" in ROOMS


def starts(names: set[str], *prefixes: str) -> set[str]:
    return {name for name in names if name.startswith(prefixes)}


def rooms(*patterns: str) -> list[str]:
    return [room for room in ROOMS if any(Path(room).match(pattern) for pattern in patterns)]


# --- the import table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_never_torch(room: str) -> None:
    assert not packages(ROOMS[room]) & NEVER


def test_errors_import_nothing() -> None:
    assert list(imported(ROOMS["errors"])) == []


@pytest.mark.parametrize("room", rooms("processing/*"))
def test_processing(room: str) -> None:
    # av: the extra `audio`, imported only where soundfile cannot read a container
    allowed = {"numpy", "PIL", "tokenizers", "sentencepiece", "jinja2", "soundfile", "soxr", "av"}
    assert packages(ROOMS[room]) <= allowed
    assert all(name.startswith("processing/") or name == "errors" for name in neighbours(ROOMS[room]))


@pytest.mark.parametrize("room", rooms("layers/*"))
def test_layers(room: str) -> None:
    # numpy only where the BLAS is checked, scipy_openblas32 is that BLAS
    allowed = {"mlx", "numpy", "scipy_openblas32"} if room == "layers/blas" else {"mlx"}
    assert packages(ROOMS[room]) <= allowed
    assert all(name.startswith("layers/") or name == "errors" for name in neighbours(ROOMS[room]))


@pytest.mark.parametrize("room", rooms("models/*/config"))
def test_family_config(room: str) -> None:
    assert packages(ROOMS[room]) == set()
    assert neighbours(ROOMS[room]) <= {"models/base", "errors"}


@pytest.mark.parametrize("room", rooms(*(f"models/*/{part}" for part in PROCESSOR_ROOMS)))
def test_family_processor(room: str) -> None:
    family = room.rsplit("/", 1)[0]
    # typing_extensions for the type checker alone; it is no dependency
    assert packages(ROOMS[room]) <= {"numpy", "PIL", "typing_extensions"}
    parts = [f"{family}/{part}" for part in ("config", *PROCESSOR_ROOMS)]
    own = starts(neighbours(ROOMS[room]), "processing/", *parts)
    assert neighbours(ROOMS[room]) - own <= {"errors", "models/base"}


@pytest.mark.parametrize(
    "room", rooms("models/*/model", "models/*/text", "models/*/vision", "models/*/audio", "models/*/language")
)
def test_family_model(room: str) -> None:
    family = room.rsplit("/", 1)[0]
    assert packages(ROOMS[room]) <= ({"mlx", "mlx_lm"} if family == "models/glm4v" else {"mlx"})
    own = starts(neighbours(ROOMS[room]), "layers/", f"{family}/")
    assert neighbours(ROOMS[room]) - own <= {"errors", "models/base", "models/rows"}
    assert f"{family}/processor" not in own
    standard = {name.split(".")[0] for name in imported(ROOMS[room])} & set(sys.stdlib_module_names)
    assert not standard & {"os", "pathlib", "io", "json", "re", "shutil", "tempfile"}


@pytest.mark.parametrize("room", ["weights", "torch_file", "quantize", "hub"])
def test_weights_quantize_hub(room: str) -> None:
    allowed = {"mlx", "numpy", "safetensors"} if room == "weights" else {"mlx"}
    allowed = {"hub": {"huggingface_hub"}, "torch_file": {"numpy"}}.get(room, allowed)
    assert packages(ROOMS[room]) <= allowed
    assert not starts(neighbours(ROOMS[room]), "models", "layers", "processing")


def test_no_pickle_is_run() -> None:
    """`pickle` calls what a file names. `torch_file` alone has it, for an unpickler that reaches our own alone."""
    for room in ROOMS.keys() - {"torch_file"}:
        assert not set(imported(ROOMS[room])) & {"pickle", "_pickle", "shelve", "marshal", "dill"}, room


def test_only_hub_knows_huggingface_hub() -> None:
    assert [room for room in ROOMS if "huggingface_hub" in packages(ROOMS[room])] == ["hub"]


def test_only_weights_knows_safetensors() -> None:
    assert [room for room in ROOMS if "safetensors" in packages(ROOMS[room])] == ["weights"]


@pytest.mark.parametrize("room", ["load", "convert"])
def test_load_and_convert(room: str) -> None:
    found = starts(neighbours(ROOMS[room]), "layers/", "processing/", "models/")
    # models, models.base and models.rows are the table of families and their contract; a family itself is not named.
    # Of layers only what depends on the device, which is settled when a model is loaded.
    assert found <= {"models/__init__", "models/base", "models/rows", "layers/__init__", "layers/device", "layers/blas"}


@pytest.mark.parametrize("room", ["embed", *ANSWERS])
def test_embed_and_generate(room: str) -> None:
    # typing_extensions for the type checker alone
    allowed = {"mlx", "numpy", "tqdm"} | ({"mlx_lm", "typing_extensions"} if room in ANSWERS else set())
    assert packages(ROOMS[room]) <= allowed
    # layers.device divides a batch among the processors of a CPU; the blocks of models are not its business
    around = {"errors", "layers/__init__", "layers/device", "prefetch"}
    # An answer is text by then, and what it says no matter of arrays
    around |= {"embed", "processing/__init__", "processing/answer", *ANSWERS} if room in ANSWERS else set()
    assert neighbours(ROOMS[room]) <= around


@pytest.mark.parametrize("room", ANSWERS)
def test_mlx_lm_is_imported_late(room: str) -> None:
    """It takes 0.65 s, which somebody who only imports us should not pay."""
    for node in ast.parse(ROOMS[room].read_text("utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert "mlx_lm" not in ast.unparse(node)


def test_command_line() -> None:
    for room in COMMAND_LINE:
        assert "mlx" not in packages(ROOMS[room])
        assert not starts(neighbours(ROOMS[room]), "models/", "layers/", "processing/")


def test_mlx_lm_only_where_text_is_generated() -> None:
    users = {room for room in ROOMS if "mlx_lm" in packages(ROOMS[room])}
    assert all(room in ANSWERS or room.startswith("models/glm4v/") for room in users)


def test_family_names_stay_in_models() -> None:
    names = set(FAMILIES) | set(MODEL_TYPES)
    for room, path in ROOMS.items():
        if not room.startswith("models/"):
            code = ast.parse(path.read_text("utf-8"))
            for node in ast.walk(code):
                exact = isinstance(node, ast.Constant) and node.value in names
                assert not exact, f"{room} names a family: {node.value!r}"


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_file_length(room: str) -> None:
    assert len(ROOMS[room].read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("room", [room for room in ROOMS if ROOMS[room].stat().st_size and room != "__main__"])
def test_every_file_says_what_it_is(room: str) -> None:
    assert ast.get_docstring(ast.parse(ROOMS[room].read_text("utf-8")))


FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "misc"}


@pytest.mark.parametrize("room", ROOMS)
def test_names(room: str) -> None:
    assert not set(room.split("/")) & FORBIDDEN_NAMES


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in COMMAND_LINE])
def test_library_does_not_print(room: str) -> None:
    for node in ast.walk(ast.parse(ROOMS[room].read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"print, line {node.lineno}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_exception_is_swallowed(room: str) -> None:
    """`except Exception` is for libraries that raise nothing narrower, and only to say what it means."""
    for node in ast.walk(ast.parse(ROOMS[room].read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type
            assert caught is not None, f"bare except, line {node.lineno}"
            if isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"):
                (only,) = node.body
                assert isinstance(only, ast.Raise), f"swallowed, line {node.lineno}"
                assert only.cause is not None, f"cause lost, line {node.lineno}"


def test_inheritance_is_flat() -> None:
    """No module derives from one of ours; configs may, they hold fields and no behaviour."""
    parents: dict[str, set[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and path.name not in ("errors.py", "config.py"):
                parents[node.name] = {ast.unparse(base) for base in node.bases}
    for name, bases in parents.items():
        for base in bases & set(parents):
            assert not parents[base] & set(parents), f"{name} -> {base} -> {parents[base]}"


# --- public names -----------------------------------------------------------------------------------------------


def test_all_is_sorted_and_complete() -> None:
    assert mlx_mm.__all__ == sorted(mlx_mm.__all__)
    for name in mlx_mm.__all__:
        assert getattr(mlx_mm, name) is not None
    needed = {"MlxMmError", "classify", "convert", "encode_image", "encode_text", "generate", "load", "to_mlx"}
    assert needed <= set(mlx_mm.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = mlx_mm.nonsense


@pytest.mark.parametrize("name", [n for n in mlx_mm.__all__ if inspect.isfunction(getattr(mlx_mm, n))])
def test_public_functions(name: str) -> None:
    function = getattr(mlx_mm, name)
    parameters = inspect.signature(function).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.getdoc(function)
    for parameter in parameters:  # what has a default is an option and goes by name, except a label list
        if parameter.default is not inspect.Parameter.empty and parameter.name != "labels":
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name


def test_every_error_has_one_parent_and_a_line() -> None:
    errors = importlib.import_module("mlx_mm.errors")
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    for error in classes:
        assert issubclass(error, errors.MlxMmError)
        assert error.__doc__
        assert error.__name__ in (errors.__doc__ or "")


# --- families ---------------------------------------------------------------------------------------------------


def test_model_types_are_a_literal_table() -> None:
    for node in ast.parse(ROOMS["models/__init__"].read_text("utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "MODEL_TYPES":
            assert ast.literal_eval(node.value) == MODEL_TYPES  # type: ignore[union-attr,arg-type]
            return
    pytest.fail("models/__init__.py has no MODEL_TYPES")


def test_unknown_model_type_lists_the_known_ones() -> None:
    with pytest.raises(mlx_mm.MlxMmError) as caught:
        find_family("bert")
    assert all(name in str(caught.value) for name in ("bert", *MODEL_TYPES))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_contract(family: str) -> None:
    rooms = find_family(next(t for t, name in MODEL_TYPES.items() if name == family))
    assert callable(rooms.config.ModelConfig.from_dict)
    assert callable(rooms.processor.Processor.from_folder)
    assert "" in rooms.model.ARCHITECTURES
    assert inspect.getdoc(rooms.model)
    for model in set(rooms.model.ARCHITECTURES.values()):
        assert callable(model.request) if model.generates else model.score_function in ("softmax", "sigmoid")
        assert hasattr(model, "modalities")
        assert model.lazy is False
        for method in ("sanitize", "quant_predicate", "__call__"):
            assert callable(getattr(model, method))
    model = rooms.model.ARCHITECTURES[""]
    if model.generates:
        return
    assert "{}" in model.prompt_template
    assert callable(model.score)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_config_field_is_read(family: str) -> None:
    folder = PACKAGE / "models" / family
    read = {
        node.attr
        for path in [*folder.glob("*.py"), *(PACKAGE / "layers").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
    }
    config = importlib.import_module(f"mlx_mm.models.{family}.config")
    for _, cls in inspect.getmembers(config, inspect.isclass):
        if dataclasses.is_dataclass(cls) and cls.__module__ == config.__name__:
            unread = {field.name for field in dataclasses.fields(cls)} - read
            assert not unread, f"{cls.__name__} has fields that nobody reads: {sorted(unread)}"


@pytest.mark.parametrize("model_type", TINY)
def test_processor_keys_are_the_models_arguments(model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    model, processor = mlx_mm.load(tiny_checkpoint(model_type))
    picture = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint32).reshape(40, 50, 3).astype(np.uint8))
    calls = {model.get_text_features: processor.text(["a cat", "dog"])}
    if "image" in model.modalities:
        calls[model.get_image_features] = processor.images([picture, picture])
        calls[model.__call__] = processor(text=["a cat", "dog"], images=[picture])
    else:
        sound = np.sin(np.arange(9000) / 7), 48000
        calls[model.get_audio_features] = processor.audio([sound, sound])
        calls[model.__call__] = processor(text=["a cat", "dog"], audio=[sound])
    for method, batch in calls.items():
        arguments = inspect.signature(method).parameters
        assert all(isinstance(value, np.ndarray) for value in batch.values())
        assert set(batch) <= set(arguments)
        method(**mlx_mm.to_mlx(batch))
    assert isinstance(mlx_mm.to_mlx({"x": np.zeros(2)})["x"], mx.array)


# --- imports at run time ----------------------------------------------------------------------------------------


def modules_after(code: str) -> set[str]:
    code += "\nimport sys\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_import_is_light() -> None:
    assert not modules_after("import mlx_mm") & {"mlx", "numpy", "PIL", "huggingface_hub", "tokenizers", "tqdm"}


@pytest.mark.parametrize("model_type", TINY)
def test_loading_an_encoder_imports_no_torch(model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(model_type)
    code = f"import mlx_mm\nm, p = mlx_mm.load({str(folder)!r})\nmlx_mm.encode_text(m, p, ['a cat'])"
    heavy = {"torch", "transformers", "mlx_lm", "scipy"} | (set() if "clap" in model_type else {"soundfile", "soxr"})
    assert not modules_after(code) & heavy
