"""Circuit discovery as reinforcement learning: environments, agents, planning.

Importing this package registers its environments with gymnasium by name only; what they are
made of loads when ``gymnasium.make("circuitbench/HeadDiscovery-v0", oracles=[...])`` asks.
"""

from gymnasium.envs.registration import register, registry

_HOME = "circuitbench_agents.environments"
_MODULE = f"{_HOME}.gymnasium_envs"
ENVIRONMENTS = {
    "circuitbench/HeadDiscovery-v0": f"{_MODULE}:HeadDiscoveryEnv",
    "circuitbench/HeadKnockout-v0": f"{_MODULE}:HeadKnockoutEnv",
    "circuitbench/CircuitPruning-v0": f"{_MODULE}:CircuitPruningEnv",
    "circuitbench/EdgePruning-v0": f"{_HOME}.edge_env:EdgePruningEnv",
}

for _name, _entry_point in ENVIRONMENTS.items():
    if _name not in registry:
        register(id=_name, entry_point=_entry_point)

__all__ = ["ENVIRONMENTS"]
