"""Kinds of digits that are not MNIST's, on which a model shows what it has learnt beside MNIST."""
