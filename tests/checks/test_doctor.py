import json
from importlib.metadata import version
from typing import Any

import pytest
from oracle_kit import random_model

from circuitbench.checks import doctor
from circuitbench.core.errors import InvalidSpec, ModelUnavailable


@pytest.fixture(scope="module")
def found() -> Any:
    return doctor.report("cpu", random_model(), batch_size=4)


def test_report_is_json_and_measured(found: Any) -> None:
    again = json.loads(json.dumps(found))
    assert again["heads"] == [3, 4]
    assert again["queries_per_second"] > 0
    assert again["matmul_gflops"] > 0
    assert again["sweep_measured_masks"] <= 12
    assert again["versions"]["torch"] == version("torch")
    assert again["precision"]["exact"] == {"layers": "float32", "control_logits": "float32"}


def test_estimates_grow_with_the_budget(found: Any) -> None:
    seconds = list(found["estimated_seconds"].values())[1:]
    assert seconds == sorted(seconds)


def test_rendered_report_names_what_matters(found: Any) -> None:
    text = doctor.render(found)
    for word in ("queries/s", "threads", "GFLOP/s", "sweep of all heads", "3 x 4 heads"):
        assert word in text


def test_absent_devices_and_precisions_are_refused() -> None:
    with pytest.raises(ModelUnavailable):
        doctor.report("cuda:99", random_model())
    with pytest.raises(InvalidSpec):
        doctor.report("cpu", random_model(), precision="vague")


@pytest.mark.parametrize(("seconds", "text"), [(3.0, "3 s"), (600, "10 min"), (36000, "10 h")])
def test_durations(seconds: Any, text: str) -> None:
    assert doctor._duration(seconds) == text
