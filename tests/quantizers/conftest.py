"""The same tests on the torch code and on whatever kernels accept the call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lowbit.kernels.op import REFERENCE, backend


@pytest.fixture(params=["reference", "kernels"])
def every_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Once on the reference alone, once as users run it."""
    if request.param == "kernels":
        yield
    else:
        with backend(REFERENCE):
            yield
