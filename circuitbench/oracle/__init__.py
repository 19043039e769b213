"""The engine that answers every question: how much does switching these heads off hurt?"""

from circuitbench.oracle.batch import Batch
from circuitbench.oracle.meter import Meter
from circuitbench.oracle.oracle import AblationOracle, Damages, query_together

__all__ = ["AblationOracle", "Batch", "Damages", "Meter", "query_together"]
