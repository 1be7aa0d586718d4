"""Estimators of information and conditional information from samples, in nats."""
