"""Which model an index has: what is the same one, what is another, and what is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import Library, Spy, picture, pictures
from safetensors.numpy import load_file, save_file

from mlx_mm import Index
from mlx_mm.checkpoint.digest import weights_digest
from mlx_mm.errors import DamagedError, InputError, ModalityError, ModelNotFoundError, OtherModelError, StoreError
from mlx_mm.load import open_checkpoint
from mlx_mm.search import encoding
from mlx_mm.search import fingerprint as fingerprints
from mlx_mm.search.fingerprint import fingerprint
from mlx_mm.search.spaces import Spaces
from mlx_mm.search.writing import Writing

Write = Callable[..., Path]


def changed_weight(folder: Path, name: str, by: float) -> Path:
    """One tensor of a checkpoint gets other numbers."""
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.endswith(name))
    slope = np.linspace(-by, by, weights[key].size).reshape(weights[key].shape)
    weights[key] = (weights[key] + slope).astype(weights[key].dtype)
    save_file(weights, folder / "model.safetensors")
    return folder


def of(folder: Path, patches: int | None = None) -> str:
    return fingerprint(open_checkpoint(folder), patches).digest


def test_the_same_weights_in_other_files(tiny_checkpoint: Write) -> None:
    one, three = tiny_checkpoint("siglip2", name="one"), tiny_checkpoint("siglip2", shards=3, name="three")
    assert weights_digest(one) == weights_digest(three)
    assert of(one) == of(three)


def test_what_makes_another_space(tiny_checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    first = of(tiny_checkpoint("siglip2", name="a"))
    found = {first, of(tiny_checkpoint("siglip2", name="b"), 9)}
    found.add(of(changed_weight(tiny_checkpoint("siglip2", name="c"), "bias", 1e-3)))
    settings = tiny_checkpoint("siglip2", name="d") / "preprocessor_config.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps(values | {"image_mean": [0.4, 0.5, 0.5]}))
    found.add(of(settings.parent))
    monkeypatch.setattr(fingerprints, "PREPROCESSING", 99)
    found.add(of(tiny_checkpoint("siglip2", name="e")))
    assert len(found) == 5


def test_weights_are_read_once(tiny_checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_checkpoint("siglip2")
    about = fingerprint(open_checkpoint(folder)).about
    read: list[Path] = []
    monkeypatch.setattr(fingerprints, "weights_digest", lambda path: read.append(path) or "another")
    again = fingerprint(open_checkpoint(folder), None, about)
    assert again.about["weights"] == about["weights"]
    assert read == []
    (folder / "model.safetensors").touch()
    assert fingerprint(open_checkpoint(folder), None, about).digest != again.digest
    assert read == [folder]


def test_another_model_is_refused_with_three_ways_out(library: Library, tiny_checkpoint: Write, spy: Spy) -> None:
    other = changed_weight(tiny_checkpoint("siglip2", name="other"), "patch_embedding.bias", 0.5)
    pictures(library.photos, 3)
    library.refresh(library.photos)
    before = library.vectors()
    match = (
        r"x.mmindex holds vectors of .*tiny \(not quantised, 24 patches\); this is .*other \(not quantised, 24 "
        r"patches\). Search with that model \(leave --model out\), add a second space \(--add-space\), or make all "
        r"vectors anew \(--reembed, about \d+ s\)."
    )
    with pytest.raises(OtherModelError, match=match):
        library.refresh(model=other)
    with pytest.raises(OtherModelError, match=r"\(--reembed\)"):
        Spaces(library.store, str(other)).all()
    assert library.vectors() == before
    spy.taken()
    assert library.refresh(model=other, add_space=True) == {"encoded": 3}
    assert {len(vectors) for vectors in library.vectors().values()} == {2}
    assert spy.taken() == 3
    assert len(Spaces(library.store).all()) == 2
    assert [space.name for space in Spaces(library.store, str(other)).all()] == [str(other)]
    picture(library.photos / "new.png", 77)
    assert library.refresh(model=other) == {"new": 1, "encoded": 2}  # for each of the spaces
    assert library.refresh() == {}


def test_all_vectors_are_made_anew(library: Library, tiny_checkpoint: Write) -> None:
    other = changed_weight(tiny_checkpoint("siglip2", name="other"), "patch_embedding.bias", 0.5)
    pictures(library.photos, 3)
    library.refresh(library.photos)
    before = library.vectors()
    assert library.refresh(model=other, reembed=True) == {"encoded": 3}
    after = library.vectors()
    assert after.keys() == before.keys()
    assert all(len(after[key]) == 1 and after[key] != before[key] for key in after)
    library.model = None
    assert library.refresh() == {}
    assert [space.name for space in Spaces(library.store).all()] == [str(other)]


def test_until_all_vectors_are_made_anew_the_old_ones_are_searched(
    library: Library, tiny_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = changed_weight(tiny_checkpoint("siglip2", name="other"), "patch_embedding.bias", 0.5)
    pictures(library.photos, 6)
    library.refresh(library.photos)
    mine, library.model = library.model, None

    def counts() -> list[int]:
        return [row[0] for row in library.query("SELECT count(*) FROM vectors GROUP BY space ORDER BY space")]

    def found() -> int:
        with Index(library.store.path) as index:
            return len(index.search(like=library.photos / "5.png", strong_only=False, top=9))

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "FILES", 2)
        commit, commits = Writing.commit, []

        def interrupted(self: Writing) -> None:
            commit(self)
            commits.append(1)
            if len(commits) == 2:
                raise KeyboardInterrupt

        patch.setattr(Writing, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            library.refresh(model=other, reembed=True)
    assert counts() == [6, 4]
    assert found() == 6
    picture(library.photos / "new.png", 77)
    assert library.refresh(model=mine, reembed=True) == {"new": 1, "encoded": 1}  # another mind: all are there
    assert counts() == [7]
    library.refresh(model=other, add_space=True)
    (library.photos / "5.png").rename(library.place / "5.png")
    assert library.refresh(model=other, reembed=True) == {"missing": 1}  # of two spaces one stays
    assert [space.name for space in Spaces(library.store).all()] == [str(other)]
    assert counts() == [7]


def test_old_vectors_whose_model_is_gone_go_at_once(library: Library, tiny_checkpoint: Write) -> None:
    library.model = tiny_checkpoint("siglip2", name="mine")
    pictures(library.photos, 2)
    library.refresh(library.photos)
    shutil.rmtree(library.model)
    library.model = tiny_checkpoint("siglip2", name="other")
    changed_weight(library.model, "patch_embedding.bias", 0.5)
    picture(library.photos / "new.png", 77)

    def stop(event: str, path: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.refresh(reembed=True, on_event=stop)
    assert [space.name for space in Spaces(library.store).all()] == [str(library.model)]


def test_other_patches_are_another_space(library: Library) -> None:
    pictures(library.photos, 2)
    library.refresh(library.photos, max_num_patches=9)
    assert library.refresh(max_num_patches=9) == {}
    assert library.refresh() == {}  # the index knows
    with pytest.raises(OtherModelError, match=r"9 patches\); this is .* 16 patches"):
        library.refresh(max_num_patches=16)
    with pytest.raises(InputError, match="max_num_patches is 0; expected a whole number"):
        library.refresh(max_num_patches=0)


def test_a_model_whose_files_changed_is_noticed(library: Library, tiny_checkpoint: Write) -> None:
    library.model = tiny_checkpoint("siglip2", name="mine")
    pictures(library.photos, 2)
    library.refresh(library.photos)
    changed_weight(library.model, "bias", 1e-4)
    picture(library.photos / "new.png", 50)
    with pytest.raises(OtherModelError, match=r"mine \(not"):
        library.refresh()
    with pytest.raises(OtherModelError, match=r"mine \(not"):
        Spaces(library.store).of("image").vectors_of_text(["cat"])


def test_a_canary_finds_what_no_digest_sees(library: Library) -> None:
    pictures(library.photos, 2)
    library.refresh(library.photos)
    space = Spaces(library.store).of("image")
    vector = space.vectors_of_text(["a cat"])
    assert vector.shape == (1, space.dim)
    with library.store.writing() as rows:
        blob = np.frombuffer(rows.execute("SELECT canary FROM spaces").fetchone()[0], "<f4").copy()
        blob[: space.dim // 8] += 0.2  # of the text's
        rows.execute("UPDATE spaces SET canary = ?", (blob.tobytes(),))
    damaged = Spaces(library.store).of("image")
    with pytest.raises(DamagedError, match=r"another vector of the text that is kept to know it by \(cosine 0\.\d+\)"):
        damaged.vectors_of_text(["a cat"])
    assert damaged.vectors_of_images([library.photos / "0.png"]).shape == (1, space.dim)  # that one is whole


def test_a_model_of_sounds_beside_one_of_pictures(library: Library, hearing_model: Path) -> None:
    pictures(library.photos, 1)
    library.refresh(library.photos)
    library.refresh(model=hearing_model)
    spaces = Spaces(library.store)
    assert [space.kinds for space in spaces.all()] == [("image", "video"), ("audio",)]
    assert spaces.of("audio").name == str(hearing_model)
    assert spaces.of("video") is spaces.of("image")


def test_models_that_give_no_vectors(library: Library, tiny_checkpoint: Write) -> None:
    pictures(library.photos, 1)
    with pytest.raises(ModalityError, match="is a classifier and gives no image vectors"):
        library.refresh(library.photos, model=tiny_checkpoint("siglip2-classifier"))
    with pytest.raises(ModelNotFoundError):
        library.refresh(library.photos, model=library.place / "nothing")
    with pytest.raises(StoreError, match="has no vectors of kind image"):
        Spaces(library.store).of("image")


def test_a_model_is_loaded_once_and_late(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(library.photos, 1)
    library.refresh(library.photos)
    opened: list[object] = []
    kept = open_checkpoint
    monkeypatch.setattr(
        "mlx_mm.search.spaces.open_checkpoint", lambda name, **options: opened.append(name) or kept(name, **options)
    )
    library.model = None
    library.refresh()
    assert opened == []
    space = Spaces(library.store).of("image")
    assert opened == []
    space.vectors_of_text(["a"])
    space.vectors_of_text(["b"])
    assert len(opened) == 1
