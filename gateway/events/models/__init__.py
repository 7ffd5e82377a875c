"""The contract: the payloads of all 17 kinds as pydantic models."""
