"""Guardrails, proven on the unit that an operator starts."""
