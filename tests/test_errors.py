"""The checks that every room shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlx_mm.errors import InputError, whole_number


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(1)])
def test_whole_numbers(value: Any) -> None:
    found = whole_number("count", value)
    assert (found, type(found)) == (int(value), int)


@pytest.mark.parametrize("value", [0, -1, True, False, 2.0, "3", None, np.float32(2), np.bool_(True)])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        whole_number("count", value)
    assert str(caught.value) == f"count is {value!r}; expected a whole number of 1 or more. Leave it out."


def test_ranges_and_advice() -> None:
    assert whole_number("seed", 0, least=0, most=5) == 0
    assert whole_number("seed", 5, least=0, most=5) == 5
    with pytest.raises(InputError, match=r"^seed is 6; expected a whole number from 0 to 5\. Pass another\.$"):
        whole_number("seed", 6, least=0, most=5, advice="Pass another.")
