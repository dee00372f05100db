"""Systems of networks and transforms: what a spatial transformer is part of, framework-free."""

from pystn.systems.cascaded import CascadedSpatialTransformer, HierarchicalSpatialTransformer
from pystn.systems.inverse_compositional import InverseCompositionalSpatialTransformer
from pystn.systems.parallel import ParallelSpatialTransformer
from pystn.systems.probabilistic import ProbabilisticSpatialTransformer
from pystn.systems.transformer import SpatialTransformer

__all__ = [
    "CascadedSpatialTransformer",
    "HierarchicalSpatialTransformer",
    "InverseCompositionalSpatialTransformer",
    "ParallelSpatialTransformer",
    "ProbabilisticSpatialTransformer",
    "SpatialTransformer",
]
