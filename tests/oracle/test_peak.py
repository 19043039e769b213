import sys

import numpy as np
import pytest

from circuitbench.oracle.process_memory import peak_bytes, start_afresh


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_the_peak_is_of_what_came_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # A test before it may have used a GPU, whose peak is taken then.
    monkeypatch.setattr("circuitbench.oracle.process_memory._uses_gpu", lambda: False)
    start_afresh()
    small = peak_bytes()
    big = np.ones(2**25)
    assert peak_bytes() > small + 0.9 * big.nbytes
    del big
    start_afresh()
    assert peak_bytes() < small + 2**27
