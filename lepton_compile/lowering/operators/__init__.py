"""lowering/operators."""
