"""What is said beside the results, on stderr: notes, warnings, and which inputs were skipped."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from mlx_mm.cli.files import find_files, passed_over_line
from mlx_mm.cli.output import say_beside, visible
from mlx_mm.cli.tables import plural
from mlx_mm.errors import MlxMmError

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Modality


def note(text: str) -> None:
    """One line on stderr."""
    say_beside(text)


@contextlib.contextmanager
def warnings_as_notes(as_options: Callable[[str], str] = str) -> Iterator[None]:
    """Inside, a UserWarning is one line on stderr, without the place in the code; the same one appears once.

    as_options: puts the names of options in the place of those of arguments.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, UserWarning):
            note(f"warning: {as_options(' '.join(str(message).split()))}")
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged EXIF: they name no file
        usual, warnings.showwarning = warnings.showwarning, show
        yield


class Skipped:
    """Counts inputs that could not be read, with one warning line each."""

    def __init__(self) -> None:
        self.count = 0
        self._bad: set[int] = set()

    def find(self, names: Sequence[str], modality: "Modality") -> list[str]:
        """The files of images or sounds behind what the user named; names without files are warned of."""
        found = find_files(names, modality)
        for problem in found.problems:
            self._warn(problem)
        if line := passed_over_line(found):
            note(line)
        return found.files

    def on_error(self, files: Sequence[str]) -> Callable[[int, MlxMmError], None]:
        """A callback for `encode_image` and `encode_audio` over `files`."""

        def skip(index: int, error: MlxMmError) -> None:
            self._bad.add(index)
            name, said = visible(files[index]), str(error)
            self._warn(said if name in said else f"{name}: {said}")

        return skip

    def remaining(self, files: Sequence[str]) -> list[str]:
        """Those of `files` that were read."""
        return [name for index, name in enumerate(files) if index not in self._bad]

    def report(self) -> None:
        """Say at the end how many were skipped."""
        if self.count:
            note(f"{plural(self.count, 'input')} skipped, see the warnings above")

    def _warn(self, text: str) -> None:
        self.count += 1
        note(f"warning: skipped {text}")
