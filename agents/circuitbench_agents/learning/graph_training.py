"""PPO on EdgePruning: a :class:`PolicyTraining` whose network attends over a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.learning.graph_network import GraphPolicy, GraphSizes
from circuitbench_agents.learning.policies import Network
from circuitbench_agents.learning.policy_training import PolicyTraining


@dataclass(frozen=True)
class GraphNetwork(Network):
    """:class:`GraphPolicy` by its settings.

    Args:
        sizes: of the network.
        groups: how many group cuts there are.
    """

    width: int
    sizes: GraphSizes
    groups: int

    name: ClassVar[str] = "graph"
    observation: ClassVar[str] = "graph"  # type: ignore[misc]

    def policy(self) -> type[GraphPolicy]:
        """Ours."""
        return GraphPolicy

    def arguments(self) -> dict[str, Any]:
        """The sizes."""
        return {"sizes": self.sizes, "n_groups": self.groups}


class GraphTraining(PolicyTraining):
    """A training run on :class:`EdgeEpisodes`."""

    batch: EdgeEpisodes  # type: ignore[assignment]

    @property
    def layout(self) -> dict[str, Any]:
        """What a checkpoint must agree in to be taken up; weights fit any graph."""
        spaces = self.batch.observation_space.spaces
        return {
            "agent": self.name,
            "network": self.network.name,
            "width": self.network.width,
            "features": {name: list(space.shape or ())[-1] for name, space in spaces.items()},
        }
