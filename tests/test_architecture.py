"""The rules of the house: who may import whom, what a family offers, how long a file may be."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pydoc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rooms
from recipes import RECIPES
from rooms import ORDER, PACKAGE, code_of, imported, room_of

import mlx_mm
from mlx_mm.models import MODEL_TYPES, find_family

FAMILIES = sorted(set(MODEL_TYPES.values()))
FILES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
CODE = {file: code_of(path) for file, path in FILES.items()}
IMPORTED = {file: imported(path) for file, path in FILES.items()}
JOINT = [name for name, recipe in RECIPES.items() if recipe.kind == "encoder" and len(recipe.modalities) > 1]


def packages(file: str) -> set[str]:
    """Top-level packages from outside that a file imports."""
    return {name.split(".")[0] for name in IMPORTED[file]} - {"mlx_mm"} - set(sys.stdlib_module_names)


# --- who may import whom ----------------------------------------------------------------------------------------

# Package from outside -> the rooms that may have it; what is not named here may be nowhere.
PACKAGES = {
    "numpy": ORDER,
    "mlx": ORDER[ORDER.index("backend") : ORDER.index("cli")],
    "tqdm": ("progress",),
    "mlx_lm": ("generation", "models", "generate", "server"),
    "starlette": ("server",),
    "uvicorn": ("server", "cli"),
    "huggingface_hub": ("checkpoint",),
    "safetensors": ("checkpoint",),
    "scipy_openblas32": ("backend",),
    "PIL": ("processing", "models", "cli"),
    "pyarrow": ("checkpoint", "cli"),
    "watchfiles": ("search",),
    "typing_extensions": ORDER,  # for the type checker alone; it is no dependency
    **dict.fromkeys(("tokenizers", "sentencepiece", "jinja2", "soundfile", "soxr", "av", "pi_heif"), ("processing",)),
}


def test_imports_go_up() -> None:
    for file in FILES.keys() - {"__init__", "__main__"}:
        allowed = ORDER[: ORDER.index(room_of(file)) + 1]
        for name in IMPORTED[file]:
            if name.startswith("mlx_mm.") and not hasattr(mlx_mm, name.removeprefix("mlx_mm.")):
                assert room_of(name) in allowed, f"{file} imports {name}"
        for package in packages(file):
            assert room_of(file) in PACKAGES.get(package, ()), f"{file} imports {package}"


def test_documents_show_the_rooms_as_they_are() -> None:
    for path, text in rooms.documents().items():
        assert path.read_text("utf-8") == text, f"{path.name} is old: python tests/rooms.py"


def test_arrays_have_one_kind_on_each_side_of_the_border() -> None:
    """Among the models, what prepares inputs has no MLX, and what computes with them no NumPy."""
    for file in FILES:
        if room_of(file) == "models":
            assert not packages(file) >= {"mlx", "numpy"}, file
    code = "import sys, importlib\nsys.modules['mlx'] = None\n" + "".join(
        f"importlib.import_module('mlx_mm.models.{family}.processor')\n" for family in FAMILIES
    )
    assert "mlx" in modules_after(code)  # the None that keeps it out
    assert "numpy" in modules_after(code)


def test_families_do_not_know_each_other() -> None:
    for file, names in IMPORTED.items():
        families = {name.split(".")[2] for name in names if name.startswith("mlx_mm.models.")} & set(FAMILIES)
        assert families <= set(file.split("/")[1:2]), file


def test_no_pickle_is_run() -> None:
    """`pickle` calls what a file names. One file has it, for an unpickler that reaches our own functions alone."""
    pickles = {"pickle", "_pickle", "shelve", "marshal", "dill"}
    assert [file for file in FILES if IMPORTED[file] & pickles] == ["checkpoint/torch_file"]


def test_mlx_lm_is_imported_late() -> None:
    """It takes 0.65 s, which somebody who only imports us should not pay."""
    for file, code in CODE.items():
        if not file.startswith("models/"):
            for node in code.body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    assert "mlx_lm" not in ast.unparse(node), file


def test_family_names_stay_in_models() -> None:
    names = set(FAMILIES) | set(MODEL_TYPES)
    for file, code in CODE.items():
        if not file.startswith("models/"):
            for node in ast.walk(code):
                exact = isinstance(node, ast.Constant) and node.value in names
                assert not exact, f"{file} names a family: {node.value!r}"


# --- files ------------------------------------------------------------------------------------------------------


FORBIDDEN_NAMES = {"utils", "helpers", "common", "manager", "misc"}


def test_files_are_short_named_for_their_job_and_say_what_it_is() -> None:
    for file, path in FILES.items():
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 400, file
        assert not set(file.split("/")) & FORBIDDEN_NAMES, file
        assert not text or file == "__main__" or ast.get_docstring(CODE[file]), file


def test_library_does_not_print() -> None:
    for file, code in CODE.items():
        for node in ast.walk(code):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not file.startswith("cli/"):
                assert node.func.id != "print", f"{file}, line {node.lineno}"


def test_no_exception_is_swallowed() -> None:
    """`except Exception` is for libraries that raise nothing narrower, and only to say what it means."""
    for file, code in CODE.items():
        for node in ast.walk(code):
            if isinstance(node, ast.ExceptHandler):
                caught, where = node.type, f"{file}, line {node.lineno}"
                assert caught is not None, f"bare except: {where}"
                if isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"):
                    *before, last = node.body
                    assert isinstance(last, ast.Raise), f"swallowed: {where}"
                    assert last.cause is not None, f"cause lost: {where}"
                    for guard in before:  # what it lets pass, it raises again
                        assert isinstance(guard, ast.If), where
                        assert [ast.unparse(line) for line in guard.body] == ["raise"], f"swallowed: {where}"


def test_inheritance_is_flat() -> None:
    """No module derives from one of ours; configs and contracts may, they have no behaviour."""
    parents: dict[str, set[str]] = {}
    for file, code in CODE.items():
        for node in ast.walk(code):
            if isinstance(node, ast.ClassDef) and file.split("/")[-1] not in ("errors", "config", "contracts"):
                parents[node.name] = {ast.unparse(base) for base in node.bases}
    for name, bases in parents.items():
        for base in bases & set(parents):
            assert not parents[base] & set(parents), f"{name} -> {base} -> {parents[base]}"


def signatures(code: ast.AST, owner: str = "") -> Iterator[tuple[str, list[ast.expr]]]:
    """Public functions and methods of public classes, with their annotations."""
    for node in ast.iter_child_nodes(code):
        name = getattr(node, "name", "")
        special = bool(owner) and name.startswith("__")
        if isinstance(node, ast.ClassDef) and not name.startswith("_"):
            yield from signatures(node, f"{name}.")
        elif isinstance(node, ast.FunctionDef) and (special or not name.startswith("_")):
            given = node.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            found = [node.returns, *(argument.annotation for argument in arguments if argument is not None)]
            yield owner + name, [annotation for annotation in found if annotation is not None]


def test_no_any_in_signatures() -> None:
    """What one file promises another is a type, so that mypy follows a value from room to room."""
    found = [
        f"{file}: {name}"
        for file, code in CODE.items()
        for name, annotations in signatures(code)
        if re.search(r"\bAny\b", " ".join(ast.unparse(annotation) for annotation in annotations))
    ]
    assert not found, "\n".join(found)


# --- tests ------------------------------------------------------------------------------------------------------

FOREIGN = {"_from_config", "_neg_view", "_ntuple_diskusage"}  # names of transformers, torch and shutil


def private_names(code: ast.AST, inside_class: bool = False) -> Iterator[tuple[int, str]]:
    """Private names of other modules and objects, also in text that setattr and getattr are given."""
    for node in ast.iter_child_nodes(code):
        if isinstance(node, ast.Attribute):
            own = inside_class and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if re.match(r"_[^_]", node.attr) and not own:
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if re.match(r"_[^_]", alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("setattr", "getattr", "delattr"):
            texts = (given.value for given in node.args if isinstance(given, ast.Constant))
            yield from ((node.lineno, text) for text in texts if re.search(r"(^|\.)_[^_]", str(text)))
        yield from private_names(node, inside_class or isinstance(node, ast.ClassDef))


def test_tests_use_public_names() -> None:
    found = [
        f"{path.name}:{line}: {name}"
        for path in sorted(Path(__file__).parent.rglob("*.py"))
        for line, name in private_names(ast.parse(path.read_text("utf-8")))
        if name not in FOREIGN
    ]
    assert not found, "\n".join(found)


# --- public names -----------------------------------------------------------------------------------------------


def test_all_is_sorted_and_complete() -> None:
    assert mlx_mm.__all__ == sorted(mlx_mm.__all__)
    for name in mlx_mm.__all__:
        assert getattr(mlx_mm, name) is not None
    needed = {"MlxMmError", "classify", "convert", "encode_image", "encode_text", "generate", "load", "to_mlx"}
    assert needed <= set(mlx_mm.__all__)


def test_dir_lists_the_public_names() -> None:
    assert {name for name in dir(mlx_mm) if not name.startswith("_")} == {*mlx_mm.__all__, "errors"}
    assert "__version__" in dir(mlx_mm)


@pytest.mark.parametrize("name", mlx_mm.__all__)
def test_help_says_what_a_public_name_is(name: str) -> None:
    text = pydoc.render_doc(getattr(mlx_mm, name), renderer=pydoc.plaintext)
    assert name in text
    assert inspect.getdoc(getattr(mlx_mm, name)) is not None
    if inspect.isfunction(getattr(mlx_mm, name)):
        assert f"{name}(" in text
        assert "Raises" in text or name == "stream_generate"


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
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    for error in classes:
        assert issubclass(error, errors.MlxMmError)
        assert error.__doc__
        assert error.__name__ in (errors.__doc__ or "")


# --- families ---------------------------------------------------------------------------------------------------


def test_model_types_are_a_literal_table() -> None:
    for node in CODE["models/__init__"].body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "MODEL_TYPES":
            assert ast.literal_eval(node.value) == MODEL_TYPES  # type: ignore[union-attr,arg-type]
            return
    pytest.fail("models/__init__.py has no MODEL_TYPES")


def test_unknown_model_type_lists_the_known_ones() -> None:
    with pytest.raises(mlx_mm.MlxMmError) as caught:
        find_family("bert")
    assert all(name in str(caught.value) for name in ("bert", *MODEL_TYPES))


@pytest.mark.parametrize("name", FAMILIES)
def test_family_contract(name: str) -> None:
    family = find_family(next(t for t, folder in MODEL_TYPES.items() if folder == name))
    assert family.name == name
    assert "" in family.architectures
    assert inspect.getdoc(importlib.import_module(f"mlx_mm.models.{name}.model"))
    assert all(map(callable, family.architectures.values()))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_config_field_is_read(family: str) -> None:
    read = {
        node.attr
        for file, code in CODE.items()
        if file.startswith((f"models/{family}/", "layers/"))
        for node in ast.walk(code)
        if isinstance(node, ast.Attribute)
    }
    config = importlib.import_module(f"mlx_mm.models.{family}.config")
    for _, cls in inspect.getmembers(config, inspect.isclass):
        if dataclasses.is_dataclass(cls) and cls.__module__ == config.__name__:
            unread = {field.name for field in dataclasses.fields(cls)} - read
            assert not unread, f"{cls.__name__} has fields that nobody reads: {sorted(unread)}"


# --- imports at run time ----------------------------------------------------------------------------------------


def modules_after(code: str) -> set[str]:
    code += "\nimport sys\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_import_is_light() -> None:
    assert not modules_after("import mlx_mm") & {"mlx", "numpy", "PIL", "huggingface_hub", "tokenizers", "tqdm"}


@pytest.mark.parametrize("model_type", JOINT)
def test_loading_an_encoder_imports_nothing_heavy(model_type: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(model_type)
    code = f"import mlx_mm\nm, p = mlx_mm.load({str(folder)!r})\nmlx_mm.encode_text(m, p, ['a cat'])"
    heavy = {"torch", "transformers", "mlx_lm", "scipy", "http", "ssl", "email", "zipfile"} | (
        set() if "clap" in model_type else {"soundfile", "soxr"}
    )
    assert not modules_after(code) & heavy
