"""How a model comes to be: built by hand, compiled, trained here, or read from a checkpoint."""

from circuitbench.models.base import Model, ModelFactory
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig

__all__ = ["LayerWeights", "Model", "ModelFactory", "Transformer", "TransformerConfig"]
