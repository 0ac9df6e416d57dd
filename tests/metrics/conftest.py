import tracemalloc
from collections.abc import Callable, Iterator

import jaxtyping
import pytest


@pytest.fixture
def no_type_hook() -> Iterator[None]:
    """Run as users do, without the runtime type checker, so that our own validation is what answers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """Measures how much memory a call holds at most beyond what is there before; NumPy reports to tracemalloc."""

    def measure(call: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure
