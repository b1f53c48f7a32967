"""The LangChain face of the guard."""
