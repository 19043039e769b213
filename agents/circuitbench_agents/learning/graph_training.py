"""PPO on EdgePruning: a :class:`PolicyTraining` whose network attends over a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from circuitbench_agents.environments.edge_episodes import EdgeEpisodes
from circuitbench_agents.learning.graph_network import GraphPolicy, GraphSizes
from circuitbench_agents.learning.policies import Network
from circuitbench_agents.learning.policy_training import PolicyTraining, PPOSettings

if TYPE_CHECKING:
    from circuitbench_agents.environments.episode_batch import EpisodeBatch


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
    observation: ClassVar[Any] = "graph"

    def policy(self) -> type[GraphPolicy]:
        """Ours."""
        return GraphPolicy

    def arguments(self) -> dict[str, Any]:
        """The sizes."""
        return {"sizes": self.sizes, "n_groups": self.groups}


class GraphTraining(PolicyTraining):
    """A training run on :class:`EdgeEpisodes`; arguments as of :class:`PolicyTraining`."""

    def __init__(
        self,
        batch: EdgeEpisodes,
        settings: PPOSettings,
        network: GraphNetwork,
        total_steps: int,
        seed: int,
        name: str,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        # A training asks no more of a batch of heads than what one of edges has too.
        heads = cast("EpisodeBatch", batch)
        super().__init__(heads, settings, network, total_steps, seed, name, origin)

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
