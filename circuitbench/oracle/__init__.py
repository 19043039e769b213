"""The engine that answers every question: how much does switching these heads off hurt?"""

from circuitbench.oracle.batch import Batch
from circuitbench.oracle.damages import Damages
from circuitbench.oracle.edges import EdgeOracle
from circuitbench.oracle.heads import Oracle, query_together
from circuitbench.oracle.meter import Meter

__all__ = ["Batch", "Damages", "EdgeOracle", "Meter", "Oracle", "query_together"]
