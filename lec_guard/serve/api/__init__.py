"""The HTTP API: checks, scores, moderations, and LiteLLM's guardrail, for applications in any language."""
