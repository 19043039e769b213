"""The engine that answers every question: how much does switching these heads off hurt?"""

from circuitbench.oracle.batch import Batch
from circuitbench.oracle.damages import Damages
from circuitbench.oracle.edges import EdgeOracle
from circuitbench.oracle.meter import Meter
from circuitbench.oracle.oracle import AblationOracle, query_together

__all__ = ["AblationOracle", "Batch", "Damages", "EdgeOracle", "Meter", "query_together"]
